//! `headwater doctor`.

use crate::harness::World;

#[test]
fn each_mirror_has_a_line_and_nothing_is_changed() {
    let world = World::with_mirror();
    world.mkdir("empty");
    let away = "[[mirror]]\nname='away'\nurl='http://127.0.0.1:1/docs'\n";
    let unset = "[[mirror]]\nname='secret'\nurl='https://127.0.0.1:1/docs'\ntoken_env='NO_SUCH_TOKEN'\n";
    let mirror = |name: &str, url: &str| format!("[[mirror]]\nname='{name}'\nurl='{url}'\n");
    let here = [mirror("www", "./www"), mirror("new", "./new"), mirror("lost", "./no/such/place")].concat();
    world.write("headwater.toml", format!("content='tree'\n{here}{away}{unset}"));
    let before = world.snapshot("www");
    let run = world.run("doctor").code(1);
    let line = |name: &str| {
        let prefix = format!("{name}: ");
        let lines: Vec<&str> = run.stdout.lines().filter(|line| line.starts_with(&prefix)).collect();
        assert_eq!(lines.len(), 1, "{name}: {}", run.stdout);
        lines[0].to_owned()
    };
    let www = line("www");
    assert!(www.contains("ok: serves release 1 of site default") && www.contains("writable, "), "{www}");
    assert!(line("new").contains("ok: is empty: the first push would create it, would create the directory"));
    assert!(line("lost").contains("FAILED") && line("lost").contains("hint: "));
    assert!(line("away").contains("FAILED: it cannot be reached") && line("away").contains("receiver runs"));
    assert!(line("secret").contains("NO_SUCH_TOKEN: this variable is not set"));
    assert_eq!(run.stderr, "");
    assert_eq!((world.snapshot("www"), world.exists("new")), (before, false));
    world.ok("doctor www new");
    assert_eq!(world.ok("doctor www --quiet").stdout, "");
    let answer = world.json("doctor", 1);
    assert_eq!(answer["mirrors"][3]["is_ok"], false);
    assert!(answer["mirrors"][3]["problems"][0]["hint"].is_string(), "{answer}");
}

#[test]
fn a_mirror_of_another_site_is_found_before_the_push() {
    let world = World::with_mirror();
    world.run("doctor ./www --site docs").code(1).says("FAILED").says("--site");
}
