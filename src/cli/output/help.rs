//! The examples shown below the help text of each command.

// No line has more than 80 columns: clap would wrap a longer example without indenting it.
pub(crate) const TOP: &str = "\
Examples:
  headwater push public /srv/www /data/www   push a tree to two directories,
                                             which the first push creates
  headwater push                             use headwater.toml (see
                                             `headwater init`)
  headwater status /srv/www                  show what the mirror serves
  headwater rollback /srv/www                go back to the previous release";

pub(crate) const PUSH: &str = "\
Examples:
  headwater push public /srv/www /data/www       two mirrors, switched together
  headwater push                                 tree and mirrors from
                                                 headwater.toml
  headwater push public eu us --require 1        switch when one of the two is
                                                 ready
  headwater push public https://edge1:7447/docs ssh://me@edge2/srv/www
                                                 mirrors on other machines
                                                 (token in HEADWATER_TOKEN)
  headwater push --from /srv/www /data/new       fill a new mirror from another
                                                 mirror, without the tree
  headwater push public /srv/www --order build:7 --superseded-ok
                                                 in CI: an old run never
                                                 replaces a newer one";

/// The usage of `push`: clap has one positional argument where users see two.
pub(crate) const PUSH_USAGE: &str = "headwater push [OPTIONS] [TREE] [MIRROR]...";

/// The usage of `plan`.
pub(crate) const PLAN_USAGE: &str = "headwater plan [OPTIONS] [TREE] [MIRROR]...";

/// The usage of `serve`.
pub(crate) const SERVE_USAGE: &str =
    "headwater serve [OPTIONS] <DIR>\n       headwater serve [OPTIONS] --config <FILE>";

/// The usage of `receive`.
pub(crate) const RECEIVE_USAGE: &str =
    "headwater receive [OPTIONS] <DIR>\n       headwater receive [OPTIONS] --config <FILE>";

pub(crate) const PROMOTE: &str = "\
Examples:
  headwater promote /srv/staging /srv/www --note \"approved by QA\"
                                                 publish what staging serves
  headwater promote staging eu us --dry-run      show what would change";

pub(crate) const PLAN: &str = "\
Examples:
  headwater plan public /srv/www                 show changes and bytes to send
  headwater plan --json                          tree and mirrors from
                                                 headwater.toml, as JSON";

pub(crate) const DIFF: &str = "\
Examples:
  headwater diff /srv/www public                 what the tree would change on
                                                 the mirror
  headwater diff /srv/www:41 /srv/www            what changed since release 41
  headwater diff eu us                           compare two configured mirrors";

pub(crate) const STATUS: &str = "\
Examples:
  headwater status                               all mirrors of headwater.toml
  headwater status --watch                       show it again and again
  headwater status --check --warn 1h --crit 24h  one line for a monitoring
                                                 plug-in
  headwater status --public --html fleet.html    also check what visitors get,
                                                 and write a web page
  headwater status /srv/www /data/www --json";

pub(crate) const DOCTOR: &str = "\
Examples:
  headwater doctor                               check network, token, site,
                                                 clock and free space of all
                                                 configured mirrors
  headwater doctor https://edge1:7447/docs       check one mirror";

pub(crate) const WHICH: &str = "\
Examples:
  headwater which assets/app.js                  on all mirrors of
                                                 headwater.toml
  headwater which / eu us --json                 the start page on two mirrors";

pub(crate) const MIRRORLIST: &str = "\
Examples:
  headwater mirrorlist --format nginx --output /etc/nginx/mirrors.conf";

pub(crate) const RELEASES: &str = "\
Examples:
  headwater releases /srv/www                    newest first; * marks the
                                                 release that the mirror serves";

pub(crate) const ROLLBACK: &str = "\
Examples:
  headwater rollback /srv/www /data/www          go back to the release before
                                                 the current one
  headwater rollback eu us --to 41               go back to the content of
                                                 release 41";

pub(crate) const ACTIVATE: &str = "\
Examples:
  headwater push --stage-only                    prepare release
                                                 12-9f3ac1d2e4b5a697;
                                                 MIRROR/staged shows it
  headwater activate 12-9f3ac1d2e4b5a697         serve it on all mirrors";

pub(crate) const ABANDON: &str = "\
Examples:
  headwater abandon 12-9f3ac1d2e4b5a697          drop it on all configured
                                                 mirrors
  headwater abandon 12 /srv/www                  drop it on this mirror";

pub(crate) const HEAL: &str = "\
Examples:
  headwater heal                                 all configured mirrors
  headwater heal --quiet                         from cron";

/// The help for `--order` in `headwater rollback`, which takes no run number from CI.
pub(crate) const ROLLBACK_ORDER: &str =
    "Record this order in the release, so that pushes with a lower N are refused";

pub(crate) const VERIFY: &str = "\
Examples:
  headwater verify /srv/www                      read and hash everything
  headwater verify --quick                       only find edited files";

pub(crate) const REPAIR: &str = "\
Examples:
  headwater repair /srv/www --from public        fetch content from the tree
  headwater repair /srv/www --from /data/www     from another mirror";

pub(crate) const PRUNE: &str = "\
Examples:
  headwater prune /srv/www --keep 1              keep as little as possible";

pub(crate) const INIT: &str = "\
Examples:
  headwater init                                 write ./headwater.toml
  headwater init site.toml                       write another file, for
                                                 --config";

pub(crate) const COMPLETIONS: &str = "\
Examples:
  headwater completions bash \\
    > ~/.local/share/bash-completion/completions/headwater
  headwater completions fish > ~/.config/fish/completions/headwater.fish
  headwater completions zsh > \"${fpath[1]}/_headwater\"";

pub(crate) const MAN: &str = "\
Examples:
  headwater man | man -l -                       show the page
  headwater man /usr/local/share/man/man1        install a page for each
                                                 subcommand";

pub(crate) const SERVE: &str = "\
Examples:
  headwater serve /srv/www --no-auth             on 127.0.0.1:7447, only for
                                                 this machine
  headwater serve /srv/www --site docs --token-file tokens.toml --behind-proxy
  headwater serve --config /etc/headwater/serve.toml";

pub(crate) const RECEIVE: &str = "\
Examples:
  command=\"headwater receive /srv/www\",restrict ssh-ed25519 AAAA…
                                                 a line of authorized_keys: the
                                                 key may push to this directory
                                                 and do nothing else";

pub(crate) const TOKEN: &str = "\
Examples:
  headwater token new --site docs --allow push --append serve.toml
                                                 add the token's table to the
                                                 file, print the token
  headwater token new --site docs --allow push --expires 90d
                                                 print both";
