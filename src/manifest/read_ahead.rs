//! Reading ahead: decoding is half of the work of whoever walks a manifest.

use std::sync::{Mutex, PoisonError};
use std::thread::Builder;

use crossbeam_channel::bounded;

/// Items handed over at once: enough that the channel does not show.
const BATCH: usize = 512;
/// Batches that wait.
const WAITING: usize = 4;

/// Gives `consume` the `items`, which another thread reads ahead. At most a
/// few thousand of them wait.
pub fn read_ahead<T: Send, R>(
    items: impl Iterator<Item = T> + Send,
    consume: impl FnOnce(&mut dyn Iterator<Item = T>) -> R,
) -> R {
    let (sender, batches) = bounded::<Vec<T>>(WAITING);
    let items = Mutex::new(Some(items));
    let take = &|| items.lock().unwrap_or_else(PoisonError::into_inner).take();
    std::thread::scope(|scope| {
        let read = move || {
            let Some(mut items) = take() else { return };
            loop {
                let batch: Vec<T> = items.by_ref().take(BATCH).collect();
                // Nobody takes them any more once whoever consumes has had enough.
                if batch.is_empty() || sender.send(batch).is_err() {
                    return;
                }
            }
        };
        // Where there is no thread to be had, they are read as they are consumed.
        match Builder::new().spawn_scoped(scope, read).is_err().then(take).flatten() {
            Some(mut items) => consume(&mut items),
            None => consume(&mut batches.into_iter().flatten()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_and_need_not_all_be_taken() {
        let all: Vec<u32> = read_ahead(0..10_000, |items| items.collect());
        assert!(all.iter().copied().eq(0..10_000));
        assert_eq!(read_ahead(0.., |items| items.take(3).count()), 3);
        assert_eq!(read_ahead(std::iter::empty::<u32>(), |items| items.count()), 0);
    }
}
