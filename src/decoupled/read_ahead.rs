//! Reading the next batch on a thread while the current one is visited.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::streamed::{Loaded, Source};
use crate::error::Error;
use crate::kernel::Scalar;

/// A thread that reads one batch at a time. When this is dropped, it ends after the batch in progress.
#[derive(Debug)]
pub(crate) struct ReadAhead<T> {
    orders: SyncSender<Order<T>>,
    done: Receiver<Order<T>>,
    /// The memory of the next order, unless one is being read.
    idle: Option<Order<T>>,
}

/// A batch to be read, and then the result. It goes back and forth, so that nothing is allocated.
#[derive(Debug)]
struct Order<T> {
    source: Option<Source<T>>,
    dims: Vec<usize>,
    columns: Vec<usize>,
    kept: bool,
    loaded: Loaded<T>,
    result: Result<(), Error>,
}

impl<T: Scalar> Order<T> {
    fn fulfil(&mut self) {
        if let Some(source) = self.source.take() {
            let (dims, columns) = (&self.dims, &self.columns);
            self.result = source.read(dims, columns, self.kept, &mut self.loaded);
        }
    }
}

impl<T: Scalar> ReadAhead<T> {
    /// `None` where there are no threads.
    pub(crate) fn start(dims: &[usize]) -> Option<Self> {
        let (orders, received) = sync_channel::<Order<T>>(1);
        let (answers, done) = sync_channel(1);
        let thread = thread::Builder::new().name("layerwise read-ahead".into());
        let work = move || {
            while let Ok(mut order) = received.recv() {
                order.fulfil();
                if answers.send(order).is_err() {
                    break;
                }
            }
        };
        thread.spawn(work).ok()?;
        Some(Self {
            orders,
            done,
            idle: Some(Order {
                source: None,
                dims: dims.to_vec(),
                columns: Vec::new(),
                kept: false,
                loaded: Loaded::new(),
                result: Ok(()),
            }),
        })
    }

    /// Starts reading a batch, once the last one has been taken or forgotten; false if the thread is
    /// gone.
    pub(crate) fn ask(&mut self, source: &Source<T>, columns: &[usize], kept: bool) -> bool {
        let Some(mut order) = self.idle.take() else {
            return false;
        };
        order.source = Some(source.clone());
        order.columns.clear();
        order.columns.extend_from_slice(columns);
        order.kept = kept;
        self.orders.send(order).is_ok()
    }

    /// Forgets the batch that was asked for: its targets may change before it is lent.
    pub(crate) fn forget(&mut self) {
        if self.idle.is_none() {
            self.idle = self.done.recv().ok();
        }
    }

    /// Exchanges `loaded` for the batch that was asked for, if it is this one; any other is forgotten.
    pub(crate) fn take(
        &mut self,
        columns: &[usize],
        kept: bool,
        loaded: &mut Loaded<T>,
    ) -> Option<Result<(), Error>> {
        if self.idle.is_some() {
            return None;
        }
        let mut order = self.done.recv().ok()?;
        let wanted = order.columns == columns && order.kept == kept;
        let result = std::mem::replace(&mut order.result, Ok(()));
        if wanted {
            std::mem::swap(loaded, &mut order.loaded);
        }
        self.idle = Some(order);
        wanted.then_some(result)
    }
}
