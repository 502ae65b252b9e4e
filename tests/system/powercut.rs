//! G1, G2, G3 under power cuts: only these reveal a missing sync.
//!
//! The mirror is on its own file system in an image. The test kills a process before its k-th
//! change on disk (or lets it finish), then shuts the file system down without writeback (an ioctl
//! that the kernel has for such tests), and mounts it again. The journals are configured not to
//! commit by themselves, so only synced data is durable.
//!
//! Needs root, loop devices, mkfs and python3 (for the ioctl: this crate has no unsafe code).
//! `HEADWATER_POWER_CUTS` is the number of cuts per scenario, by default 40.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{Sandbox, shell};
use crate::sandbox;
use crate::scenario::{Found, Kind, Scenario};

/// `EXT4_IOC_SHUTDOWN`, the same on XFS, with the flag `NOLOGFLUSH`.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

const KINDS: [Kind; 6] =
    [Kind::FirstPush, Kind::Update, Kind::Deletion, Kind::Rollback, Kind::Prune, Kind::Expire];

/// A kind of file system, and how it reveals missing syncs.
#[derive(Debug, Clone, Copy)]
struct FileSystemKind {
    mkfs: &'static str,
    flags: &'static [&'static str],
    megabytes: u64,
    options: &'static str,
}

/// By default ext4 hides a missing sync before a rename.
const EXT4: FileSystemKind = FileSystemKind {
    mkfs: "mkfs.ext4",
    flags: &["-q", "-F"],
    megabytes: 32,
    options: "loop,noauto_da_alloc,commit=900",
};
const XFS: FileSystemKind =
    FileSystemKind { mkfs: "mkfs.xfs", flags: &["-q", "-f"], megabytes: 320, options: "loop" };

fn file_system_kinds() -> Vec<FileSystemKind> {
    let is_here =
        |file_system: &FileSystemKind| Command::new(file_system.mkfs).arg("-V").output().is_ok();
    let file_system_kinds: Vec<FileSystemKind> = [EXT4, XFS].into_iter().filter(is_here).collect();
    println!(
        "file systems: {:?}",
        file_system_kinds.iter().map(|file_system| file_system.mkfs).collect::<Vec<_>>()
    );
    file_system_kinds
}

fn cuts_per_scenario() -> u64 {
    std::env::var("HEADWATER_POWER_CUTS")
        .map_or(40, |text| text.parse().expect("HEADWATER_POWER_CUTS is a number"))
}

/// A disk that can lose power.
struct Disk {
    dir: TempDir,
    file_system: FileSystemKind,
    is_mounted: bool,
}

impl Disk {
    fn new(file_system: FileSystemKind) -> Self {
        let disk = Self { dir: sandbox::directory(), file_system, is_mounted: false };
        fs::create_dir(disk.mount_point()).unwrap();
        fs::File::create(disk.image()).unwrap().set_len(file_system.megabytes << 20).unwrap();
        let flags: Vec<&OsStr> = file_system.flags.iter().map(OsStr::new).collect();
        shell(file_system.mkfs, &[&flags[..], &[disk.image().as_os_str()]].concat());
        disk
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn mount(&mut self) {
        let options = ["-o".as_ref(), OsStr::new(self.file_system.options)];
        shell(
            "mount",
            &[&options[..], &[self.image().as_os_str(), self.mount_point().as_os_str()]].concat(),
        );
        self.is_mounted = true;
    }

    fn unmount(&mut self) {
        // Another test that starts a process holds our descriptors between fork and exec.
        const PATIENT: &str = "for try in $(seq 50); do umount \"$0\" 2>/dev/null && exit; sleep \
                               0.1; done; umount \"$0\"";
        shell("sh", &["-c".as_ref(), PATIENT.as_ref(), self.mount_point().as_os_str()]);
        self.is_mounted = false;
    }

    fn cut_power(&mut self) {
        shell("python3", &["-c".as_ref(), SHUTDOWN.as_ref(), self.mount_point().as_os_str()]);
        self.unmount();
        self.mount();
    }

    /// Saves the disk for [`Disk::restore`].
    fn save(&mut self) {
        self.unmount();
        self.copy("image", "saved");
        self.mount();
    }

    fn restore(&mut self) {
        self.unmount();
        self.copy("saved", "image");
        self.mount();
    }

    fn copy(&self, from: &str, to: &str) {
        let place = |name: &str| self.dir.path().join(name).into_os_string();
        shell("cp", &["--sparse=always".as_ref(), &place(from), &place(to)]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            Command::new("umount").arg("-l").arg(self.mount_point()).status().ok();
        }
    }
}

/// A scenario on a disk.
struct PowerCut {
    disk: Disk,
    scenario: Scenario,
    steps: u64,
}

impl PowerCut {
    fn new(kind: Kind, file_system: FileSystemKind) -> Self {
        let mut disk = Disk::new(file_system);
        disk.mount();
        let scenario = Scenario::at(kind, Sandbox::new(), disk.mount_point().join("mirror"));
        disk.save();
        scenario.sandbox.save("cache");
        let steps = scenario.steps();
        Self { disk, scenario, steps }
    }

    fn reset(&mut self) {
        self.disk.restore();
        self.scenario.sandbox.restore("cache");
    }

    /// Kills the command at a step, cuts the power, checks the result, and runs the command again.
    fn at_step(&mut self, step: u64, sabotage: &str) -> Result<Found, String> {
        self.reset();
        let outcome = self.scenario.run(Some(&format!("{sabotage}kill@{step}")));
        self.disk.cut_power();
        let fail = |what: String| {
            format!("{:?}, power cut at step {step}: {what}\n{outcome}", self.scenario.kind)
        };
        let side = self
            .scenario
            .check_reported(&outcome)
            .map_err(|faults| fail(format!("{faults:#?}")))?;
        self.scenario.finish().map_err(fail)?;
        Ok(side)
    }

    /// Cuts the power right after the command reports success, and checks the result.
    fn after_success(&mut self, sabotage: &str) -> Result<(), String> {
        self.reset();
        let fault = if sabotage.is_empty() { None } else { Some(sabotage) };
        let outcome = self.scenario.run(fault).expect(&[0]);
        self.disk.cut_power();
        match self.scenario.check_served() {
            Ok(Found::New) => Ok(()),
            other => Err(format!(
                "{:?}, power cut after success: {other:#?}\n{outcome}",
                self.scenario.kind
            )),
        }
    }

    /// Returns the first fault found with a sabotaged sync: at the end, or after some step,
    /// starting with the last ones.
    fn first_fault(&mut self, sabotage: &str) -> String {
        let at_end = self.after_success(sabotage).err();
        let steps = self.steps;
        let sabotage = format!("{sabotage},");
        let anywhere = || (1..=steps).rev().find_map(|step| self.at_step(step, &sabotage).err());
        at_end.or_else(anywhere).expect("the harness detects no fault")
    }

    /// The steps to try, evenly spread.
    fn points(&self) -> impl Iterator<Item = u64> + use<> {
        let stride = self.steps.div_ceil(cuts_per_scenario()).max(1);
        (1..=self.steps + 1).step_by(usize::try_from(stride).unwrap())
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn power_cut_at_any_step_leaves_a_complete_release() {
    for file_system in file_system_kinds() {
        for kind in KINDS {
            let mut cut = PowerCut::new(kind, file_system);
            let sides: Vec<Found> =
                cut.points().map(|step| cut.at_step(step, "").unwrap()).collect();
            let count = |side: Found| sides.iter().filter(|&&found| found == side).count();
            let (nothing, old, new) = (count(Found::Nothing), count(Found::Old), count(Found::New));
            println!(
                "{} {kind:?}: {} steps, nothing {nothing}, old {old}, new {new}",
                file_system.mkfs, cut.steps
            );
        }
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn reported_activation_survives_a_power_cut() {
    for file_system in file_system_kinds() {
        for kind in KINDS {
            let mut cut = PowerCut::new(kind, file_system);
            cut.after_success("").unwrap();
            cut.scenario.finish().unwrap();
        }
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn skipped_directory_sync_is_detected() {
    for file_system in file_system_kinds() {
        for kind in [Kind::FirstPush, Kind::Update, Kind::Deletion, Kind::Rollback] {
            println!(
                "{} {kind:?}: {}",
                file_system.mkfs,
                PowerCut::new(kind, file_system).first_fault("skip-directory-sync")
            );
        }
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn skipped_data_sync_is_detected() {
    for file_system in file_system_kinds() {
        for kind in [Kind::FirstPush, Kind::Update] {
            println!(
                "{} {kind:?}: {}",
                file_system.mkfs,
                PowerCut::new(kind, file_system).first_fault("skip-data-sync")
            );
        }
    }
}
