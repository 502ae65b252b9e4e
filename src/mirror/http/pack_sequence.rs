//! Packs with their headers, and the body of a request with packs that are ready.

use std::io::{self, Read};

use crate::mirror::{OutgoingPack, SourceError};
use crate::protocol::PackHead;

/// A pack with its header in front.
pub(super) type FramedPack<R> = io::Chain<io::Cursor<[u8; PackHead::BYTES]>, R>;

/// Puts the header of a pack in front of its content.
pub(super) fn with_head<R: Read>(
    pack: &dyn OutgoingPack,
    content: R,
) -> Result<FramedPack<R>, SourceError> {
    let head = PackHead::Pack { id: pack.id(), bytes: u32::try_from(pack.size())? };
    Ok(io::Cursor::new(head.to_bytes()).chain(content))
}

/// The body of a request for packs that are ready. Each pack is opened only after the previous one
/// has been read.
pub(super) struct PackSequence<'p, R, F> {
    packs: &'p [Box<dyn OutgoingPack>],
    open_pack: F,
    open: Option<FramedPack<R>>,
}

impl<'p, R: Read, F: FnMut(&dyn OutgoingPack) -> Result<R, SourceError>> PackSequence<'p, R, F> {
    pub(super) fn new(packs: &'p [Box<dyn OutgoingPack>], open_pack: F) -> Self {
        Self { packs, open_pack, open: None }
    }
}

impl<R: Read, F: FnMut(&dyn OutgoingPack) -> Result<R, SourceError>> Read
    for PackSequence<'_, R, F>
{
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(open) = &mut self.open {
                let count = open.read(out)?;
                if count > 0 || out.is_empty() {
                    return Ok(count);
                }
            }
            let Some((pack, behind)) = self.packs.split_first() else { return Ok(0) };
            self.packs = behind;
            let opened = (self.open_pack)(&**pack).and_then(|content| with_head(&**pack, content));
            self.open = Some(opened.map_err(io::Error::other)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hash::PackId;

    /// A pack of these bytes.
    struct Bare(Vec<u8>);

    impl OutgoingPack for Bare {
        fn id(&self) -> PackId {
            PackId::of(&self.0)
        }

        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn bytes(&self) -> Result<Arc<Vec<u8>>, SourceError> {
            Ok(Arc::new(self.0.clone()))
        }

        fn open(&self) -> Result<Box<dyn Read + Send>, SourceError> {
            Ok(Box::new(io::Cursor::new(self.0.clone())))
        }
    }

    #[test]
    fn each_pack_follows_its_head() {
        let packs: Vec<Box<dyn OutgoingPack>> =
            vec![Box::new(Bare(b"abc".to_vec())), Box::new(Bare(vec![7; 300]))];
        let mut row = Vec::new();
        PackSequence::new(&packs, |pack| pack.open()).read_to_end(&mut row).unwrap();
        let (first, second) = (PackId::of(b"abc"), PackId::of(&[7; 300]));
        let wanted: [&[u8]; 6] =
            [first.as_bytes(), &[0, 0, 0, 3], b"abc", second.as_bytes(), &[0, 0, 1, 44], &[7; 300]];
        assert_eq!(row, wanted.concat());
        assert_eq!(row.len(), 2 * PackHead::BYTES + 303);
    }
}
