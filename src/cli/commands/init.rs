//! `headwater init`: writes an initial configuration that explains every key.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use headwater::config::FILE_NAME;
use headwater::fsx::{Dir, FileMode, IoError};

use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::escape;
use crate::cli::output::print::print;

/// The text of the file. A line that begins with `#` and no space is a setting with its default or
/// an example; a test removes the `#` and reads all settings.
// All mirrors are commented-out examples: a push right after `init` must not publish anything.
const TEMPLATE: &str = r##"# headwater.toml: what `headwater push` sends, and where.
# Paths are relative to this file. A flag outranks the key of the same name.
# A line that begins with # and no space is a setting that is off. It shows the
# default, unless the text above it says that it is an example.

# The directory whose files are pushed.
content = "public"

# The site that the mirrors belong to. A push to a mirror of any other site is
# refused. Without this key, headwater uses the site that the mirrors already
# hold, the site that their receivers serve, or the last part of their URLs. If
# none of these exists, the site is "default".
#site = "default"

# Paths to leave out, in gitignore syntax. headwater also reads .headwaterignore
# files in the tree. (Example.)
#exclude = ["*.map", "/drafts/"]

# The number of releases that each mirror keeps for rollback.
#keep = 3

# The time of a changed file: "push" is the time of the push, so caches and
# browsers always notice a change; "source" is the time of the source file.
#mtime = "push"

# Symbolic links: "keep" links that stay inside the tree, "follow" links and push
# what they point to, or "refuse" a tree that contains links.
#symlinks = "keep"

# Names that Windows or macOS cannot store: "warn" about them, or accept only
# "portable" names.
#names = "warn"

# Paths that must be in the tree; otherwise the push is refused. This detects a
# build that failed halfway. (Example.)
#must_have = ["index.html"]

# Refuse a push that removes more paths than this percentage or number.
# A percentage never refuses the removal of 100 paths or fewer. The default is
# "50%". --allow-shrink lets one push through. (Example.)
#max_removed = "25%"

# Files to publish although they look like secrets, in gitignore syntax
# (docs/configuration.md lists what looks like a secret). --allow-secrets lets
# one push through with all such files. (Example.)
#allow_secrets = ["/examples/server.key"]

# How many mirrors must be ready before any mirror switches: "all", "any", a
# number, or a percentage such as "80%". With "all", one dead mirror stops every
# push; use "all" for two or three mirrors that must agree. With five mirrors, 4
# allows one to be down; with twenty or more, use "80%". A mirror that was down
# gets the release with the next push or `heal`. The other mirrors wait for it
# for at most 2 seconds.
#require = "all"

# When a mirror fails to switch after others did: "leave" the others on the new
# release, or "revert" them to their previous content.
#on_failure = "leave"

# Mirrors in addition to the [[mirror]] tables below, from a file
# ("mirrors.jsonl") or a command: each line is a JSON object with the same keys.
# (Example.)
#mirrors_from = ["inventory", "--format=jsonl"]

# What that list may name: token variables, in addition to the variable in
# [mirror_defaults], and mirror hosts. Without `allowed_hosts`, the list may
# name any host. (Examples.)
#token_envs = ["EDGE_TOKEN"]
#allowed_hosts = ["*.edge.example"]

# Options for commands. A flag of the same name outranks each of these keys.

# Compression for other machines: "auto", "raw" (none), or a zstd level (1 to 19).
#level = "auto"

# The number of threads. The default is one per core. (Example.)
#jobs = 4

# How long a command waits for a mirror that another run is changing.
#wait = "60s"

# How many mirrors receive content at the same time.
#max_parallel = 16

# The maximum bytes per second to all mirrors on other machines together. In
# addition, `bwlimit` in a [[mirror]] limits that mirror. (Example.)
#bwlimit = "2MB"

# Abandon mirrors that are not finished this long after the start of the run.
# `deadline` in a [[mirror]] outranks this key. (Example.)
#deadline = "10m"

# The command for ssh, which headwater splits into words as a shell does, and the
# command that ssh runs on the mirror. The same keys in a [[mirror]] outrank these.
#ssh_command = "ssh"
#receive_command = "headwater"

# How long mirrors serve removed files, so that cached pages find their assets.
# The first matching rule applies. If none matches: 24h, but 0s for .html, .htm,
# .xml, .json, .txt and names without an extension. (Examples.)
#[[keep_removed]]
#match = "*.js"
#for = "14d"

#[[keep_removed]]
#match = "/private/"
#for = "0s"

# The cache on this machine. `dir` is its directory (an example; the default is
# `headwater` in the XDG cache; --cache outranks it). The cache keeps old content,
# so headwater sends only the changed parts of files to mirrors on other machines.
# It keeps at most `content` bytes ("0" keeps none) from the last `releases`
# releases. If the cache is lost, transfers are larger, but nothing else changes.
#[cache]
#dir = ".headwater-cache"
#content = "8GiB"
#releases = 3

# The mirrors. Set the root of a web server to `current` in a mirror's directory.
# A url is a directory on a local disk, https://host:port/site (the mirror runs
# `headwater serve`), or ssh://user@host/srv/www (`headwater` is installed there).
# If no mirror is named here or in a command, a push is refused. (Examples.)
#[[mirror]]
#name = "local"
#url = "/srv/www"

#[[mirror]]
#name = "second"
#url = "https://edge1.example:7447/docs"
#token_env = "EDGE1_TOKEN"                # or token_file = "edge1.token"
#ca = "edge1.pem"                         # trust only these certificates
#client_cert = "me.pem"                   # with client_key: for a proxy that requires one
#client_key = "me.key"
#proxy = "http://proxy:3128"              # instead of the one in HTTPS_PROXY
#bwlimit = "2MB"                          # maximum bytes per second to this mirror
#deadline = "5m"                          # abandon it this long after the start
#group = "canary"                          # for --only, --skip and [[wave]]
#public_url = "https://edge1.example/docs" # the URL for visitors
#region = "eu"
#weight = 1
#frozen = true                             # pushes leave this mirror unchanged
#until = 2026-12-24                        # the end of `frozen`
#store = "0123456789abcdef0123456789abcdef" # the id in .headwater/format;
#                                           any other store is refused

# Keys for all mirrors. {name} in a string stands for the mirror's name. The ssh
# keys apply only to ssh: urls. [[mirror]] accepts them too, and also `host_key`,
# the only key that the host may have: host_key = "ssh-ed25519 AAAA...".
#[mirror_defaults]
#url = "https://{name}.example:7447/docs"
#token_env = "MIRRORS_TOKEN"
#ssh_command = "ssh -i keys/{name}"
#receive_command = "sudo headwater"

# Groups of mirrors that switch first. For the `soak` time, only they serve the
# release. Then headwater fetches `probe`, a URL or a path below each
# `public_url`, and compares it with the release.
#[[wave]]
#groups = ["canary"]
#soak = "10m"
#probe = "index.html"

# Commands that run on this machine after a push: one if something changed for
# visitors, and one if the push did not succeed everywhere. A command reads the
# paths of changed URLs, one per line, and has HEADWATER_SITE, _RELEASE, _SEQUENCE,
# _EXIT_CODE and _ERROR in its environment. A command that fails does not change
# the exit code. (Examples.)
#[hooks]
#on_activated = ["./after.sh"]
#on_failed = ["./alarm.sh", "docs"]
#timeout = "60s"

# A CDN to purge: headwater posts lists of changed URLs below `base` as
# {"files": […]} until the CDN acknowledges them, in this push or the next.
# (Example.)
#[purge]
#url = "https://api.cdn.example/zones/1/purge"
#base = "https://www.example.org"
#token_env = "CDN_TOKEN"
#header = "authorization"
#key = "files"
#max_urls = 30
#max_bytes = "64kB"
#retry_for = "5m"

# A file of gauges for Prometheus. Each push replaces the file. (Example.)
#[metrics]
#file = "/var/lib/node_exporter/headwater.prom"

# Several directories can form one tree, each at its own path. These tables
# replace the `content` above.
#[[content]]
#path = "public"

#[[content]]
#path = "../api/html"
#at = "api"
"##;

/// The arguments of `init`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InitArgs {
    /// Write this file; an existing file is never replaced
    #[arg(value_name = "FILE", default_value = FILE_NAME, value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

pub(crate) fn run(args: &InitArgs, is_quiet: bool) -> Result<Exit, Failure> {
    write(&args.file).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AlreadyExists => {
                "name another file, or move this one away; nothing was changed"
            }
            _ => "name a file in a directory where this user may create files",
        };
        Failure::new(Exit::Usage, error).with_hint(hint)
    })?;
    if is_quiet {
        return Ok(Exit::Success);
    }
    let file = args.file.to_string_lossy();
    let next = if args.file == Path::new(FILE_NAME) {
        String::new()
    } else {
        format!(" --config {}", escape(&file))
    };
    print(&format!(
        "wrote {}: set `content`, add a [[mirror]], then run `headwater plan{next}` and `headwater \
         push{next}`\n",
        escape(&file)
    ))?;
    Ok(Exit::Success)
}

fn write(path: &Path) -> Result<(), IoError> {
    let invalid = || IoError::new("create", path, io::Error::from(io::ErrorKind::InvalidInput));
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(invalid)?;
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The system refuses an existing name. After a separate check, a file could still appear before
    // the write.
    Dir::open(parent)?.write_new(name, TEMPLATE.as_bytes(), FileMode::RECORD, None)
}

#[cfg(test)]
mod tests {
    use headwater::config::Config;
    use headwater::mirror::{ReceiveCommand, SshCommand};
    use headwater::push::LevelChoice;

    use super::*;
    use crate::cli::setup::{mirror_factory, options};

    fn parse(text: &str) -> Config {
        Config::parse(text, Path::new(FILE_NAME)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The file without the line `off`, with all settings switched on.
    fn uncommented(off: &str) -> String {
        let on = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting.to_owned(),
            _ => line.to_owned(),
        };
        TEMPLATE.lines().filter(|line| *line != off).map(|line| on(line) + "\n").collect()
    }

    #[test]
    fn written_file_is_valid() {
        let config = parse(TEMPLATE);
        assert_eq!(config.content[0].path, Path::new("./public"));
        // Nothing is published before the user has named a mirror.
        assert!(config.mirrors.is_empty());
        let defaults = Config { content: config.content.clone(), ..Config::default() };
        assert_eq!(config, defaults);
    }

    #[test]
    fn every_setting_in_the_file_is_valid_and_every_key_is_present() {
        let text = uncommented("content = \"public\"");
        let config = parse(&text);
        assert_eq!(
            (config.content.len(), config.mirrors.len(), config.keep_removed.len()),
            (2, 2, 2)
        );
        assert_eq!(config.site, Some(headwater::tree_path::Site::default()));
        assert_eq!(config.keep, headwater::config::DEFAULT_KEEP);
        assert_eq!(config.run.level, Some(LevelChoice::default()));
        assert_eq!(config.run.wait, Some(options::DEFAULT_WAIT));
        assert_eq!(config.run.max_parallel, Some(mirror_factory::DEFAULT_MAX_PARALLEL));
        assert_eq!(config.run.ssh_command, Some(SshCommand::default()));
        assert_eq!(config.run.receive_command, Some(ReceiveCommand::default()));
        assert_eq!(config.cache.keep, headwater::push::KeepContent::default());
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
            let has =
                |line: &str| line.starts_with(&format!("{key} = ")) || line == format!("[[{key}]]");
            assert!(text.lines().any(has), "{key}");
        }
    }

    #[test]
    fn every_mirror_key_is_in_the_file() {
        let unknown = Config::parse("[[mirror]]\nno_such_key = 1\n", Path::new(FILE_NAME))
            .unwrap_err()
            .to_string();
        let keys: Vec<&str> = unknown.split('`').skip(3).step_by(2).collect();
        assert!(keys.len() > 15, "{unknown}");
        for key in keys {
            assert!(TEMPLATE.contains(&format!("{key} = ")), "{key}");
        }
    }

    #[test]
    fn existing_file_is_not_replaced() {
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
