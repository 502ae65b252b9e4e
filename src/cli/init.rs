//! `headwater init`: a configuration to begin with, every key explained.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use headwater::config::FILE_NAME;
use headwater::fsx::{Dir, FileMode, IoError};

use super::failure::{Exit, Failure};
use super::output::{escape, print};

/// What is written. Lines that begin with `#` and no space are settings with
/// their defaults or an example; a test takes the `#` away and reads them all.
const TEMPLATE: &str = r##"# headwater.toml: what `headwater push` sends, and where.
# Paths are relative to this file. Flags win over what is written here.
# Settings behind a # are off; unless marked as an example they show the default.

# The directory whose files are pushed.
content = "public"

# The site that the mirrors belong to; a push to a mirror of another site is
# refused. Without this key it is the site that the mirrors have already, that
# their receivers serve, or that ends their urls. (The default where none does.)
#site = "default"

# What is not pushed, in gitignore syntax; .headwaterignore files in the tree
# count too. (Example.)
#exclude = ["*.map", "/drafts/"]

# Releases kept on each mirror, for rollback.
#keep = 3

# Where the times of changed files come from: "push" (the time of the push, so
# that caches and browsers always notice a change) or "source" (the file's own).
#mtime = "push"

# Symbolic links: "keep" those that stay inside the tree, "follow" them and push
# what they point to, or "refuse" a tree that has any.
#symlinks = "keep"

# Names that Windows or macOS cannot hold: "warn", or "portable" to refuse them.
#names = "warn"

# Paths without which a tree is refused: a build that failed half-way must not
# go out. (Example.)
#must_have = ["index.html"]

# Refuse a push that removes more than this: a percentage, or a number of paths.
# A percentage never refuses to remove 100 paths or fewer. Without it: "50%".
# --allow-shrink lets one push through. (Example.)
#max_removed = "25%"

# What is published although it looks like a secret (docs/configuration.md has the list), in
# gitignore syntax. --allow-secrets lets one push through with all of them. (Example.)
#allow_secrets = ["/examples/server.key"]

# How many mirrors must be ready before any switches: "all", "any", a number, or
# a percentage such as "80%". With "all" one dead mirror stops every push: right
# for two or three that must agree. With five, 4 lets one be down; with twenty or
# more, "80%". Those that were down get the release with the next push or `heal`;
# the others do not wait for them longer than 2 seconds.
#require = "all"

# What becomes of those that switched when another one then fails to: "leave"
# them on the new release, or "revert" them to the content they had.
#on_failure = "leave"

# More mirrors than the [[mirror]] below, a JSON object with the same keys on each
# line: from a file, "mirrors.jsonl", or as a command writes them. (Example.)
#mirrors_from = ["inventory", "--format=jsonl"]

# How commands run. The flag of the same name outranks each of these keys.

# Compression of what is sent: "auto", "raw" (none), or a zstd level from 1 to 19.
#level = "auto"

# Threads. Without it: one for each core. (Example.)
#jobs = 4

# How long commands wait for a mirror that another run is changing.
#wait = "60s"

# How many mirrors are sent content at once.
#max_parallel = 16

# The most that is sent a second to mirrors on other machines, all together. A
# mirror's own `bwlimit` is a second limit, for that mirror. (Example.)
#bwlimit = "2MB"

# Give up mirrors that are not done this long after the start of the run; a
# mirror's own `deadline` outranks it. (Example.)
#deadline = "10m"

# How ssh is called (split into words as a shell does), and what it runs on the
# mirror. A mirror's own keys outrank these.
#ssh_command = "ssh"
#receive_command = "headwater"

# How long removed files are still served, so that pages in caches find their
# assets; the first match counts. Without rules: 24h, but at once for .html,
# .htm, .xml, .json, .txt and names without an extension. (Examples.)
#[[keep_removed]]
#match = "*.js"
#for = "14d"

#[[keep_removed]]
#match = "/private/"
#for = "0s"

# The cache of this machine: its directory (an example; without it `headwater` in
# the XDG cache; --cache outranks it), and how much content of old releases it
# keeps, so that mirrors on other machines are sent only what changed inside of
# files: at most `content`, "0" for none, of so many releases. Losing the cache
# costs bytes on the way, nothing else.
#[cache]
#dir = ".headwater-cache"
#content = "8GiB"
#releases = 3

# The mirrors. A web server's root is the `current` in the mirror's directory.
# A url is a directory on a local disk of this machine, https://host:port/site
# (`headwater serve` runs there) or ssh://user@host/srv/www (`headwater` is installed there).
[[mirror]]
name = "local"
url = "/srv/www"

#[[mirror]]
#name = "second"
#url = "https://edge1.example:7447/docs"
#token_env = "EDGE1_TOKEN"
#group = "canary"                          # for --only, --skip and [[wave]]
#public_url = "https://edge1.example/docs" # where visitors find it
#region = "eu"
#weight = 1
#frozen = true                             # left as it is
#until = 2026-12-24                        # until then
#store = "0123456789abcdef0123456789abcdef" # the only store that it may have; .headwater/format there has the id

# What mirrors have in common; {name} in a string is the name of each. The ssh
# keys are for ssh: urls only, and may stand in [[mirror]] too.
#[mirror_defaults]
#url = "https://{name}.example:7447/docs"
#token_env = "MIRRORS_TOKEN"
#ssh_command = "ssh -i keys/{name}"
#receive_command = "sudo headwater"

# Mirrors that switch first: for how long the release is served there alone, and
# what has to be right then, a url or a path below each `public_url`.
#[[wave]]
#groups = ["canary"]
#soak = "10m"
#probe = "index.html"

# Commands that run here after a push: when something changed for visitors, and
# when a push did not succeed everywhere. They read the paths of changed URLs, one
# a line, and have HEADWATER_SITE, _RELEASE, _SEQUENCE, _EXIT_CODE and _ERROR. What
# becomes of them changes no exit code. (Examples.)
#[hooks]
#on_activated = ["./after.sh"]
#on_failed = ["./alarm.sh", "docs"]
#timeout = "60s"

# A CDN that has to forget what changed: lists of URLs below `base` are posted as
# {"files": […]} until it acknowledges them, in this push or the next. (Example.)
#[purge]
#url = "https://api.cdn.example/zones/1/purge"
#base = "https://www.example.org"
#token_env = "CDN_TOKEN"
#header = "authorization"
#key = "files"
#max_urls = 30
#max_bytes = "64kB"
#retry_for = "5m"

# A health check that is asked when a push begins (…/start), succeeds, or fails
# (…/fail). Its URL is a secret. (Example.)
#[ping]
#url_env = "PING_URL"

# A file with gauges for Prometheus that each push replaces. (Example.)
#[metrics]
#file = "/var/lib/node_exporter/headwater.prom"

# Several directories can make one tree, each at its own place. This replaces
# the `content` above.
#[[content]]
#path = "public"

#[[content]]
#path = "../api/html"
#at = "api"
"##;

/// The arguments of `init`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InitArgs {
    /// Write this file; one that exists is never replaced
    #[arg(value_name = "FILE", default_value = FILE_NAME, value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

pub(crate) fn run(args: &InitArgs, is_quiet: bool) -> Result<Exit, Failure> {
    write(&args.file).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AlreadyExists => "nothing was changed; name another file, or move this one away",
            _ => "name a file in a directory where you may create files",
        };
        Failure::new(Exit::Usage, error).with_hint(hint)
    })?;
    if is_quiet {
        return Ok(Exit::Success);
    }
    let file = args.file.to_string_lossy();
    let next = if args.file == Path::new(FILE_NAME) { String::new() } else { format!(" --config {}", escape(&file)) };
    print(&format!(
        "wrote {}: set `content` and the mirrors, then run `headwater plan{next}` and `headwater push{next}`\n",
        escape(&file)
    ))?;
    Ok(Exit::Success)
}

fn write(path: &Path) -> Result<(), IoError> {
    let invalid = || IoError::new("create", path, io::Error::from(io::ErrorKind::InvalidInput));
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(invalid)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Dir::open(parent)?.write_new(name, TEMPLATE.as_bytes(), FileMode::RECORD, None)
}

#[cfg(test)]
mod tests {
    use headwater::config::Config;
    use headwater::mirror::{ReceiveCommand, SshCommand};
    use headwater::push::LevelChoice;

    use super::super::{context, remote};
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse(text, Path::new(FILE_NAME)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The file with its settings switched on, but for `off`.
    fn uncommented(off: &str) -> String {
        let on = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting.to_owned(),
            _ => line.to_owned(),
        };
        TEMPLATE.lines().filter(|line| *line != off).map(|line| on(line) + "\n").collect()
    }

    #[test]
    fn the_file_as_written_is_valid() {
        let config = parse(TEMPLATE);
        assert_eq!(config.content[0].path, Path::new("./public"));
        assert_eq!(config.mirrors.len(), 1);
        let defaults = Config { content: config.content.clone(), mirrors: config.mirrors.clone(), ..Config::default() };
        assert_eq!(config, defaults);
    }

    #[test]
    fn every_setting_in_it_is_valid_and_every_key_is_there() {
        let text = uncommented("content = \"public\"");
        let config = parse(&text);
        assert_eq!((config.content.len(), config.mirrors.len(), config.keep_removed.len()), (2, 2, 2));
        assert_eq!(config.site, Some(headwater::tree_path::Site::default()));
        assert_eq!(config.keep, headwater::config::DEFAULT_KEEP);
        let kept = headwater::push::KeepContent::default();
        assert_eq!(config.run.level, Some(LevelChoice::default()));
        assert_eq!(config.run.wait, Some(context::DEFAULT_WAIT));
        assert_eq!(config.run.max_parallel, Some(remote::DEFAULT_MAX_PARALLEL));
        assert_eq!(config.run.ssh_command, Some(SshCommand::default()));
        assert_eq!(config.run.receive_command, Some(ReceiveCommand::default()));
        assert_eq!(config.cache.content_bytes, Some(kept.most_bytes));
        assert_eq!(config.cache.releases.map(|releases| releases.get() as usize), Some(kept.releases));
        assert_eq!(
            (config.mtime, config.symlinks, config.names),
            (Default::default(), Default::default(), Default::default())
        );
        let keys = [
            "site",
            "content",
            "exclude",
            "keep",
            "mtime",
            "symlinks",
            "names",
            "must_have",
            "max_removed",
            "allow_secrets",
            "level",
            "jobs",
            "wait",
            "max_parallel",
            "bwlimit",
            "deadline",
            "ssh_command",
            "receive_command",
            "dir",
        ];
        for key in keys {
            let has = |line: &str| line.starts_with(&format!("{key} = ")) || line == format!("[[{key}]]");
            assert!(text.lines().any(has), "{key}");
        }
    }

    #[test]
    fn a_file_that_exists_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let args = InitArgs { file: dir.path().join(FILE_NAME) };
        assert_eq!(run(&args, true).unwrap(), Exit::Success);
        assert_eq!(std::fs::read_to_string(&args.file).unwrap(), TEMPLATE);
        std::fs::write(dir.path().join("mine"), "mine").unwrap();
        let args = InitArgs { file: dir.path().join("mine") };
        let failure = run(&args, true).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.render().contains("nothing was changed"));
        assert_eq!(std::fs::read_to_string(&args.file).unwrap(), "mine");
    }
}
