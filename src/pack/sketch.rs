//! Sketches, which estimate how similar two contents are without comparing them.
//!
//! The content itself determines where it is cut into chunks, so an insertion does not move later
//! cuts. The smallest chunk hashes are a fair sample of all, and similar contents share most of
//! them (a bottom-k sketch: Broder, "On the resemblance and containment of documents", 1997). Only
//! this file uses the crate `fastcdc`.

use fastcdc::v2020::FastCDC;

/// Minimum, average and maximum length of a chunk, in bytes.
// Powers of two: fastcdc needs even sizes but checks them only in debug builds, and for other
// averages, its cuts have changed between versions.
const CHUNK_BYTES: (usize, usize, usize) = (256, 1024, 4096);
/// Maximum number of hashes in a sketch.
const MAX_SKETCH_HASHES: usize = 48;

/// A sample of a content's chunks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sketch(Vec<u32>);

impl Sketch {
    /// The sketch of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        let (min, average, max) = CHUNK_BYTES;
        let mut sketch = Self::default();
        for chunk in FastCDC::new(content, min, average, max) {
            sketch.add(chunk.hash, chunk.length);
        }
        sketch
    }

    /// Adds the sketch of another part of the same content.
    pub fn merge(&mut self, part: &Self) {
        part.0.iter().for_each(|hash| self.insert(*hash));
    }

    /// The rolling hash at the end of a chunk covers only its last bytes; combined with the length,
    /// it identifies the chunk well enough.
    fn add(&mut self, hash: u64, length: usize) {
        let mixed = (hash ^ (length as u64).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.insert(u32::try_from(mixed >> 32).expect("32 bits are left"));
    }

    fn insert(&mut self, hash: u32) {
        // Most hashes of large content end here.
        if self.0.len() == MAX_SKETCH_HASHES
            && self.0.last().is_some_and(|largest| hash >= *largest)
        {
            return;
        }
        if let Err(at) = self.0.binary_search(&hash) {
            self.0.insert(at, hash);
            self.0.truncate(MAX_SKETCH_HASHES);
        }
    }

    /// A sketch with these hashes; `None` if they are not in ascending order or too many.
    #[must_use]
    pub fn from_hashes(hashes: Vec<u32>) -> Option<Self> {
        (hashes.len() <= MAX_SKETCH_HASHES && hashes.is_sorted()).then_some(Self(hashes))
    }

    /// The hashes, in ascending order.
    #[must_use]
    pub fn hashes(&self) -> &[u32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u8, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn shared(a: &Sketch, b: &Sketch) -> usize {
        a.hashes().iter().filter(|hash| b.hashes().contains(hash)).count()
    }

    #[test]
    fn sketch_of_parts_approximates_that_of_the_whole() {
        let whole = noise(3, 400_000);
        let mut parts = Sketch::default();
        whole.chunks(150_000).for_each(|part| parts.merge(&Sketch::of(part)));
        assert_eq!(parts.hashes().len(), MAX_SKETCH_HASHES);
        assert!(parts.hashes().is_sorted());
        assert!(shared(&parts, &Sketch::of(&whole)) > MAX_SKETCH_HASHES * 9 / 10);
        let before = parts.clone();
        parts.merge(&before);
        assert_eq!(parts, before);
    }

    #[test]
    fn similar_contents_share_most_of_their_sketch_and_others_nothing() {
        let (one, other) = (noise(1, 200_000), noise(2, 200_000));
        let mut edited = one.clone();
        edited.splice(70_000..70_003, *b"inserted");
        let [a, b, c] = [&one, &edited, &other].map(|content| Sketch::of(content));
        assert_eq!(a.hashes().len(), MAX_SKETCH_HASHES);
        assert!(a.hashes().is_sorted());
        assert!(shared(&a, &b) > MAX_SKETCH_HASHES * 9 / 10, "{}", shared(&a, &b));
        assert_eq!(shared(&a, &c), 0);
    }

    #[test]
    fn content_of_any_length_has_a_sketch() {
        assert!(Sketch::of(b"").hashes().is_empty());
        assert_eq!(Sketch::of(b"a").hashes().len(), 1);
        assert_eq!(Sketch::of(&[0; 10_000]).hashes().len(), 2);
    }
}
