//! Random rounds of ten mirrors of every kind, with random faults and policies: report, exit code
//! and metrics must match an independent check of the mirrors.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::{Receiver, report, serves_tree, ssh_flags, stand_in};
use crate::checker;
use crate::flaky_proxy::FlakyProxy;
use crate::harness::Sandbox;
use crate::sweep;
use crate::trees::{Rng, Tree, seed};

const MIRRORS: usize = 10;
/// The first mirrors are behind a receiver, the next ones behind ssh; the rest are directories.
const WEBS: usize = 5;
const SHELLS: usize = 2;

#[test]
fn report_of_a_faulty_fleet_is_true() {
    run_rounds(sweep::rounds([20, 8]));
}

#[test]
#[ignore = "takes minutes"]
fn report_of_a_faulty_fleet_is_true_200_times() {
    run_rounds(200);
}

/// The policy of a round, and its faults.
#[derive(Debug)]
struct Round {
    require: String,
    is_all: bool,
    on_failure: &'static str,
    has_waves: bool,
    frozen: Option<usize>,
    /// An address where nothing listens.
    is_down: [bool; WEBS],
    /// The fault that kills the receivers behind ssh.
    kill: String,
    /// A directory mirror that can be read but not written, and one that is no longer a store.
    is_broken: [bool; 2],
}

/// What is missing in a broken directory mirror.
const BROKEN: [&str; 2] = ["m8/.headwater/objects", "m9/.headwater"];

impl Round {
    fn random(rng: &mut Rng) -> Self {
        let require = match rng.below(4) {
            0 => "\"all\"".to_owned(),
            1 => "\"any\"".to_owned(),
            2 => (1 + rng.below(MIRRORS - 1)).to_string(),
            _ => format!("\"{}%\"", 1 + rng.below(100)),
        };
        let on_failure = rng.pick(&["leave", "revert"]);
        let has_waves = rng.chance(50);
        let frozen = rng.chance(20).then(|| rng.below(MIRRORS));
        // Unreachable and killed mirrors are retried for some seconds, so there are few of them.
        let is_down = std::array::from_fn(|_| rng.chance(2));
        let is_broken = std::array::from_fn(|_| rng.chance(20));
        let kill = match cfg!(debug_assertions) && rng.chance(8) {
            true => format!("export HEADWATER_FAULT=kill@{}", 1 + rng.below(60)),
            false => String::new(),
        };
        Self {
            is_all: require == "\"all\"",
            require,
            on_failure,
            has_waves,
            frozen,
            is_down,
            kill,
            is_broken,
        }
    }

    fn config(&self, sandbox: &Sandbox, links: &[FlakyProxy]) -> String {
        let mut text = format!(
            "content='tree'\nsite='docs'\nrequire={}\non_failure='{}'\n",
            self.require, self.on_failure
        );
        if self.has_waves {
            text.push_str(
                "[[wave]]\ngroups=['canary']\nsoak='1ms'\n[[wave]]\ngroups=['shell']\nsoak='1ms'\n",
            );
        }
        for index in 0..MIRRORS {
            let url = match links.get(index) {
                // Two mirrors at one location would be one mirror, so each unreachable one has its
                // own path.
                Some(_) if self.is_down[index] => format!("http://127.0.0.1:1/m{index}"),
                Some(link) => format!("http://{}/", link.address()),
                None if index < WEBS + SHELLS => {
                    format!("ssh://edge{index}{}", sandbox.path_text(&format!("m{index}")))
                }
                None => format!("m{index}"),
            };
            let group =
                ["canary", "web", "web", "web", "web", "shell", "shell", "canary", "disk", "disk"]
                    [index];
            let frozen = if self.frozen == Some(index) { "frozen=true\n" } else { "" };
            write!(text, "[[mirror]]\nname='m{index}'\nurl='{url}'\ngroup='{group}'\n{frozen}")
                .unwrap();
        }
        text
    }
}

impl Round {
    /// Breaks the directory mirrors; returns what was moved, and its new path.
    fn break_directory_mirrors(&self, sandbox: &Sandbox) -> Vec<(PathBuf, PathBuf)> {
        let broken = BROKEN
            .into_iter()
            .zip(self.is_broken)
            .filter(|(path, is)| *is && sandbox.path(path).exists());
        let moves =
            broken.map(|(path, _)| (sandbox.path(path), sandbox.path("away").join(&path[..2])));
        moves.inspect(|(from, to)| fs::rename(from, to).unwrap()).collect()
    }
}

fn run_rounds(count: usize) {
    let mut rng = Rng::new(seed());
    let sandbox = Sandbox::new();
    let receivers: Vec<Receiver> =
        (0..WEBS).map(|index| Receiver::start(&sandbox.path(format!("m{index}")))).collect();
    let links: Vec<FlakyProxy> =
        receivers.iter().map(|one| FlakyProxy::start(one.address(), 20, rng.next())).collect();
    let mut tree = Tree::random(&mut rng, 30);
    fs::create_dir(sandbox.path("away")).unwrap();
    for number in 0..count {
        tree.mutate(&mut rng);
        // A path that no mutation turns into a directory.
        tree.put("v1/index.html", format!("round {number}"));
        sandbox.write("tree", &tree);
        let round = Round::random(&mut rng);
        fs::write(sandbox.path("headwater.toml"), round.config(&sandbox, &links)).unwrap();
        let ssh = stand_in(&sandbox, "ssh", &round.kill);
        let before: Vec<u64> = (0..MIRRORS).map(|index| sequence(&sandbox, index)).collect();
        let away = round.break_directory_mirrors(&sandbox);
        let flags = ["push", "--json", "--jobs", "2", "--metrics", "fleet.prom"];
        let outcome = sandbox.run(&[&flags[..], &ssh_flags(&ssh)].concat()).expect(&[0, 3, 4]);
        for (from, to) in away {
            fs::rename(to, from).unwrap();
        }
        println!("round {number}: {round:?}");
        check(&sandbox, &round, &before, &report(&outcome), outcome.code().unwrap());
    }
}

/// Returns the sequence that a mirror serves; 0 if it serves nothing.
fn sequence(sandbox: &Sandbox, index: usize) -> u64 {
    let served = checker::state(&sandbox.path(format!("m{index}")))
        .unwrap_or_else(|faults| panic!("{faults:#?}"));
    served.map_or(0, |served| served.record.sequence)
}

/// Compares the report with an independent check of each mirror.
fn check(sandbox: &Sandbox, round: &Round, before: &[u64], report: &Value, code: i32) {
    // Frozen mirrors come last in the report.
    let reported: BTreeMap<&str, &Value> = report["mirrors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["mirror"].as_str().unwrap(), row))
        .collect();
    assert_eq!(reported.len(), MIRRORS);
    let metrics = fs::read_to_string(sandbox.path("fleet.prom")).unwrap();
    let gauge = |name: &str, labels: &str| {
        let start = format!("headwater_{name}{{site=\"docs\"{labels}}} ");
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(&start))
            .map(|value| value.parse::<u64>().unwrap())
    };
    let (mut serving, mut tried, mut switched) = (0, 0, 0);
    for (index, &before) in before.iter().enumerate() {
        let name = format!("m{index}");
        let mirror = reported[name.as_str()];
        let (outcome, now) = (mirror["outcome"].as_str().unwrap(), sequence(sandbox, index));
        let is_true = serves_tree(sandbox, &name);
        assert_eq!(matches!(outcome, "activated" | "current"), is_true, "{mirror}");
        assert_eq!(outcome == "frozen", round.frozen == Some(index), "{mirror}");
        match outcome {
            "activated" | "current" => {
                assert_eq!(report["sequence"].as_u64(), Some(now), "{mirror}");
            }
            "reverted" => assert_eq!(mirror["now"].as_u64(), Some(now), "{mirror}"),
            "frozen" | "skipped" | "staged" | "failed" => assert_eq!(before, now, "{mirror}"),
            other => panic!("nobody else pushes, and yet {other}: {mirror}"),
        }
        if let Some(sequence) = mirror["now"].as_u64() {
            assert_eq!(sequence, now, "{mirror}");
        }
        let label = format!(",mirror=\"{name}\"");
        let is_down = round.is_down.get(index) == Some(&true);
        assert!(!is_down || gauge("mirror_up", &label).is_none_or(|up| up == 0), "{metrics}");
        if let Some(gauge) = gauge("mirror_release_sequence", &label) {
            assert_eq!(gauge, now, "{name}: {metrics}");
        }
        tried += usize::from(outcome != "frozen");
        serving += usize::from(is_true && outcome != "frozen");
        switched += usize::from(matches!(outcome, "activated" | "reverted"));
    }
    let meant = if serving == tried { 0 } else { 3 + i32::from(serving == 0) };
    assert_eq!((code, report["exit_code"].as_i64()), (meant, Some(i64::from(meant))), "{report}");
    assert_eq!(gauge("push_exit_code", ""), u64::try_from(meant).ok(), "{metrics}");
    assert!(report["unmet"].is_null() || switched == 0, "{report}");
    if round.is_all && (0..WEBS).any(|index| round.is_down[index] && round.frozen != Some(index)) {
        assert_eq!(switched, 0, "all mirrors were required: {report}");
    }
}
