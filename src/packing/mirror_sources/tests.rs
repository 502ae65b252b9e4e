//! Stand-ins for mirrors, which count the requests to them.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::mirror::{
    CleanUpResult, Depth, HistoryEvent, MirrorState, PackSource, Pruned, RepairSource, Repaired,
    SignatureRequest, StageRequest, TransportError, Verified,
};
use crate::monitor::SilentMonitor;
use crate::pack::Signature;
use crate::packing::mirror_sources::*;
use crate::release::ReleaseName;

/// A mirror that has some objects, or does not respond. Counts the requests to it.
#[derive(Debug, Default)]
struct Stub {
    objects: HashMap<ObjectId, Vec<u8>>,
    is_dead: bool,
    /// Whether the mirror never responds.
    is_silent: bool,
    asked: AtomicUsize,
}

impl Stub {
    fn with(contents: &[&[u8]]) -> Self {
        let objects = contents.iter().map(|content| (ObjectId::of(content), content.to_vec()));
        Self { objects: objects.collect(), ..Self::default() }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn answer(&self) -> Result<(), MirrorError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_silent {
            loop {
                std::thread::park();
            }
        }
        if self.is_dead {
            Err(TransportError::Lost { what: "it died".into() }.into())
        } else {
            Ok(())
        }
    }
}

impl Mirror for Stub {
    fn name(&self) -> &str {
        "stub"
    }

    fn location(&self) -> &str {
        "stub"
    }

    fn link_kind(&self) -> LinkKind {
        LinkKind::Network
    }

    fn local_path(&self) -> Option<std::path::PathBuf> {
        None
    }

    fn state(&self) -> Result<MirrorState, MirrorError> {
        unimplemented!()
    }

    fn store_id(&self) -> Option<crate::hash::StoreId> {
        None
    }

    fn history(&self) -> Result<Vec<HistoryEvent>, MirrorError> {
        unimplemented!()
    }

    fn manifest(&self, _: &ManifestId) -> Result<Box<dyn Read + Send>, MirrorError> {
        unimplemented!()
    }

    fn object(&self, id: &ObjectId, _: u64) -> Result<Box<dyn Read + Send>, MirrorError> {
        self.answer()?;
        Ok(Box::new(Cursor::new(self.objects[id].clone())))
    }

    fn read_parts(
        &self,
        parts: &[ObjectPart],
        _: Effort,
        _: &dyn Monitor,
    ) -> Result<Vec<Option<Vec<u8>>>, MirrorError> {
        self.answer()?;
        let read = |part: &ObjectPart| {
            let (start, length) =
                (usize::try_from(part.offset).unwrap(), usize::try_from(part.length).unwrap());
            Some(self.objects.get(&part.object)?.get(start..start + length)?.to_vec())
        };
        Ok(parts.iter().map(read).collect())
    }

    fn holds(&self, objects: &[ObjectId], _: &dyn Monitor) -> Result<Vec<bool>, MirrorError> {
        self.answer()?;
        let is_whole = |id: &ObjectId| {
            self.objects.get(id).is_some_and(|content| ObjectId::of(content) == *id)
        };
        Ok(objects.iter().map(is_whole).collect())
    }

    fn signatures(
        &self,
        _: &SignatureRequest,
        _: &[u64],
        _: &dyn Monitor,
    ) -> Result<Vec<Option<Signature>>, MirrorError> {
        unimplemented!()
    }

    fn check_stage(&self, _: &StageRequest<'_>) -> Result<(), MirrorError> {
        unimplemented!()
    }

    fn stage(
        &self,
        _: &StageRequest<'_>,
        _: &dyn PackSource,
        _: &dyn Monitor,
    ) -> Result<(), MirrorError> {
        unimplemented!()
    }

    fn activate(&self, _: ReleaseName, _: Option<ReleaseName>) -> Result<(), MirrorError> {
        unimplemented!()
    }

    fn abandon(&self, _: ReleaseName) -> Result<(), MirrorError> {
        unimplemented!()
    }

    fn clean_up(&self, _: usize) -> Result<CleanUpResult, MirrorError> {
        unimplemented!()
    }

    fn prune(&self, _: usize) -> Result<Pruned, MirrorError> {
        unimplemented!()
    }

    fn verify(&self, _: Depth, _: &dyn Monitor) -> Result<Verified, MirrorError> {
        unimplemented!()
    }

    fn repair(&self, _: &dyn RepairSource, _: &dyn Monitor) -> Result<Repaired, MirrorError> {
        unimplemented!()
    }
}

/// Asks to stop as soon as a mirror has received a request.
struct StopWhenAsked(Arc<Stub>);

impl Monitor for StopWhenAsked {
    fn event(&self, _: Event) {}

    fn is_cancelled(&self) -> bool {
        self.0.asked() > 0
    }
}

fn sources(stubs: &[&Arc<Stub>]) -> MirrorSources {
    MirrorSources::from_mirrors(stubs.iter().map(|stub| Arc::clone(*stub) as Arc<dyn Mirror>))
}

fn objects(contents: &[&[u8]]) -> Vec<(ObjectId, u64)> {
    contents.iter().map(|content| (ObjectId::of(content), content.len() as u64)).collect()
}

#[test]
fn many_objects_need_one_request_and_missing_ones_another() {
    let (first, second) =
        (Arc::new(Stub::with(&[b"a", b"bb"])), Arc::new(Stub::with(&[b"bb", b"ccc", b"dddd"])));
    let sources = sources(&[&first, &second]);
    let found = sources.fetch(&objects(&[b"a", b"ccc", b"bb", b"dddd"]), &SilentMonitor).unwrap();
    assert_eq!(found, [&b"a"[..], b"ccc", b"bb", b"dddd"]);
    assert_eq!((first.asked(), second.asked()), (1, 1));
}

#[test]
fn dead_mirror_is_asked_once_if_another_has_the_content() {
    let dead = Arc::new(Stub { is_dead: true, ..Stub::with(&[b"a"]) });
    let good = Arc::new(Stub::with(&[b"a", b"b"]));
    let sources = sources(&[&dead, &good]);
    for _ in 0..100 {
        assert_eq!(sources.fetch(&objects(&[b"a", b"b"]), &SilentMonitor).unwrap(), [b"a", b"b"]);
    }
    assert_eq!((dead.asked(), good.asked()), (1, 100));
}

#[test]
fn content_of_dead_mirrors_is_lost_after_two_requests() {
    let dead = Arc::new(Stub { is_dead: true, ..Stub::with(&[b"a"]) });
    let other = Arc::new(Stub::with(&[b"b"]));
    let sources = sources(&[&dead, &other]);
    let wanted = objects(&[b"a", b"b", b"c"]);
    let lost = vec![wanted[0].0, wanted[2].0];
    for round in 1..=3 {
        assert_eq!(sources.fetch(&wanted, &SilentMonitor), Err(ReadError::Lost(lost.clone())));
        assert_eq!((dead.asked(), other.asked()), (2, round));
    }
    assert!(sources.failed()[0].contains("it died"), "{:?}", sources.failed());
    assert!(sources.locate(&lost, &SilentMonitor).is_ok());
    assert_eq!(dead.asked(), 2);
}

#[test]
fn damaged_copy_is_refused() {
    let objects_of_damaged = [(ObjectId::of(b"good"), b"evil".to_vec())].into();
    let damaged = Arc::new(Stub { objects: objects_of_damaged, ..Stub::default() });
    let good = Arc::new(Stub::with(&[b"good"]));
    let sources = sources(&[&damaged, &good]);
    assert_eq!(sources.fetch(&objects(&[b"good"]), &SilentMonitor).unwrap(), [b"good"]);
    let mut read = String::new();
    sources
        .open(&ObjectId::of(b"good"), &SilentMonitor)
        .unwrap()
        .read_to_string(&mut read)
        .unwrap();
    assert_eq!(read, "good");
}

#[test]
fn large_objects_are_looked_up_together() {
    let (first, second) =
        (Arc::new(Stub::with(&[b"first"])), Arc::new(Stub::with(&[b"second", b"third"])));
    let sources = sources(&[&first, &second]);
    let group: Vec<ObjectId> =
        objects(&[b"first", b"second", b"third"]).iter().map(|(id, _)| *id).collect();
    for (id, wanted) in group.iter().zip([b"ir", b"ec", b"hi"]) {
        let part = ObjectPart { object: *id, offset: 1, length: 2 };
        assert_eq!(sources.read_part(part, &|| group.clone(), &SilentMonitor).unwrap(), wanted);
    }
    // Each mirror gets one query, and then one request for each part.
    assert_eq!((first.asked(), second.asked()), (2, 3));
    let lost = ObjectPart { object: ObjectId::of(b"lost"), offset: 0, length: 1 };
    for _ in 0..3 {
        assert_eq!(
            sources.read_part(lost, &Vec::new, &SilentMonitor),
            Err(ReadError::Lost(vec![lost.object]))
        );
    }
    assert_eq!((first.asked(), second.asked()), (3, 4));
}

#[test]
fn silent_mirror_does_not_block_cancellation() {
    let silent = || Arc::new(Stub { is_silent: true, ..Stub::default() });
    let wanted = objects(&[b"a"]);
    let stub = silent();
    assert_eq!(sources(&[&stub]).fetch(&wanted, &StopWhenAsked(stub)), Err(ReadError::Cancelled));
    let stub = silent();
    assert_eq!(
        sources(&[&stub]).open(&wanted[0].0, &StopWhenAsked(stub)).err(),
        Some(ReadError::Cancelled)
    );
}
