//! Decodes a manifest on another thread, because decoding is half the work of reading a manifest.

use std::thread::Builder;

use crossbeam_channel::bounded;
use parking_lot::Mutex;

/// Number of items in a batch: enough to make the cost of the channel negligible.
const BATCH_ITEMS: usize = 512;
/// Number of batches that may wait in the channel.
const MAX_WAITING_BATCHES: usize = 4;

/// Calls `consume` with `items`, which another thread reads ahead of time. At most a few thousand
/// items wait.
pub fn read_ahead<T: Send, R>(
    items: impl Iterator<Item = T> + Send,
    consume: impl FnOnce(&mut dyn Iterator<Item = T>) -> R,
) -> R {
    let (sender, batches) = bounded::<Vec<T>>(MAX_WAITING_BATCHES);
    // If the closure cannot be spawned, it is dropped. The items stay here, so that they are not
    // lost with it.
    let items = Mutex::new(Some(items));
    let take = &|| items.lock().take();
    std::thread::scope(|scope| {
        let read = move || {
            let Some(mut items) = take() else { return };
            loop {
                let batch: Vec<T> = items.by_ref().take(BATCH_ITEMS).collect();
                // Sending fails if the consumer has stopped reading.
                if batch.is_empty() || sender.send(batch).is_err() {
                    return;
                }
            }
        };
        // If no thread can be started, the items are read as they are consumed.
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
    fn items_arrive_in_order_and_can_be_left_unread() {
        let all: Vec<u32> = read_ahead(0..10_000, |items| items.collect());
        assert!(all.iter().copied().eq(0..10_000));
        assert_eq!(read_ahead(0.., |items| items.take(3).count()), 3);
        assert_eq!(read_ahead(std::iter::empty::<u32>(), |items| items.count()), 0);
    }
}
