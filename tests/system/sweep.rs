//! Which points of a sweep are tried.
//!
//! All of them take minutes. By default a sweep tries an evenly spread sample,
//! another one with each seed; with `HEADWATER_FULL_SWEEPS=1` it tries all.

use crate::trees::{Rng, seed};

/// Whether sweeps try all points.
fn is_full() -> bool {
    std::env::var_os("HEADWATER_FULL_SWEEPS").is_some_and(|text| text == "1")
}

/// The points of `all` to try, in order: the first, the last, those for which `is_named` returns
/// true, and one from each of `samples` equal parts.
pub(crate) fn points<T: Copy>(all: &[T], samples: usize, is_named: impl Fn(T) -> bool) -> Vec<T> {
    if is_full() { all.to_vec() } else { sample(all, samples, is_named, &mut Rng::new(seed())) }
}

/// The number of rounds of a random test: the first number in a full sweep, else the second.
pub(crate) fn rounds([full, few]: [usize; 2]) -> usize {
    if is_full() { full } else { few }
}

fn sample<T: Copy>(
    all: &[T],
    samples: usize,
    is_named: impl Fn(T) -> bool,
    rng: &mut Rng,
) -> Vec<T> {
    let mut is_chosen: Vec<bool> = all.iter().map(|point| is_named(*point)).collect();
    if let Some(last) = all.len().checked_sub(1) {
        is_chosen[0] = true;
        is_chosen[last] = true;
    }
    for part in 0..samples {
        let bound = |part: usize| part * all.len() / samples;
        let (start, end) = (bound(part), bound(part + 1));
        if start < end {
            is_chosen[start + rng.below(end - start)] = true;
        }
    }
    all.iter().zip(is_chosen).filter_map(|(point, is_chosen)| is_chosen.then_some(*point)).collect()
}

#[test]
fn sample_has_both_ends_named_points_and_one_point_per_part() {
    let all: Vec<usize> = (0..200).collect();
    for seed in 0..50 {
        let chosen = sample(&all, 10, |point| point == 77, &mut Rng::new(seed));
        assert!([0, 77, 199].iter().all(|point| chosen.contains(point)), "{chosen:?}");
        assert!(
            all.chunks(20).all(|part| part.iter().any(|point| chosen.contains(point))),
            "{chosen:?}"
        );
        assert!(chosen.len() <= 13 && chosen.is_sorted(), "{chosen:?}");
    }
    assert_eq!(sample(&[1, 2, 3], 10, |_| false, &mut Rng::new(1)), [1, 2, 3]);
    assert!(sample(&[0_u8; 0], 10, |_| false, &mut Rng::new(1)).is_empty());
}
