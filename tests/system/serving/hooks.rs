//! The command after a switch, and its result in the response to a clean-up request.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use headwater::receiver::Hook;
use serde_json::{Value, json};

use super::pushes::publish;
use super::{PATIENCE, Receiver, wait_until};
use crate::origin::{first_tree, second_tree};

fn settle(receiver: &Receiver) -> Value {
    receiver.ask("POST", "/v1/settle", br#"{"keep":3}"#).ok()
}

/// Starts a receiver that runs `script` after an activation. Its response says that the script
/// still runs if it takes longer than `limit`.
fn hooked(script: &str, limit: Duration) -> Receiver {
    Receiver::new(|settings| {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        settings.sites[0].post_activate = Some(Hook { command, timeout: PATIENCE });
        settings.limits.hook_wait = limit;
    })
}

#[test]
fn clean_up_response_has_the_result_of_the_hook() {
    let first = first_tree().release(1);
    let name = first.name().to_string();
    for (script, state) in [
        ("exit 0", json!({"release": name, "state": "succeeded"})),
        (
            "echo no luck >&2; exit 3",
            json!({"release": name, "state": "failed", "reason": "sh: exit status: 3: no luck"}),
        ),
    ] {
        let receiver = hooked(script, PATIENCE);
        publish(&mut receiver.connect(), &first.bundle_from(None), None);
        assert_eq!(settle(&receiver)["hook"], state);
        assert_eq!(settle(&receiver)["hook"], state, "a repeated request has the same result");
    }
    // Without a hook the response has no result of one.
    let receiver = Receiver::open();
    publish(&mut receiver.connect(), &first.bundle_from(None), None);
    assert_eq!(settle(&receiver).get("hook"), None);
}

#[test]
fn running_hook_is_awaited_for_a_limited_time_without_the_lock() {
    let directory = crate::sandbox::directory();
    let pipe = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .unwrap();
    let receiver =
        hooked(&format!("read line < {}; exit 7", pipe.display()), Duration::from_millis(50));
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let mut connection = receiver.connect();
    publish(&mut connection, &first.bundle_from(None), None);
    assert_eq!(
        settle(&receiver)["hook"],
        json!({"release": first.name().to_string(), "state": "running"})
    );
    // The lock is free: the next push stages and activates while the hook runs.
    publish(&mut connection, &second.bundle_from(Some(&first)), Some(&first));
    // Opened for reading and writing, the pipe does not wait for a reader.
    let mut end = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    end.write_all(b"\n\n").unwrap();
    let failed = || settle(&receiver)["hook"]["state"] == "failed";
    wait_until("the hook has ended", failed);
    assert_eq!(settle(&receiver)["hook"]["release"], json!(second.name().to_string()));
}
