//! What a thread has to see to before it waits for something slow, such as a disk.
//!
//! Whoever waits is often far below whoever knows what should go on meanwhile. So a thread can be given something to
//! do first, and whatever is about to block says so.

use std::cell::RefCell;
use std::marker::PhantomData;

type Hook = Box<dyn Fn()>;

thread_local! {
    static BEFORE: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// While it lives, its thread calls the hook it was made with before it waits. It cannot be sent to another.
#[derive(Debug)]
#[must_use]
pub struct Prepared(PhantomData<*const ()>);

/// From now on this thread calls `hook` each time before it waits. `hook` itself must not wait.
pub fn before_waiting(hook: impl Fn() + 'static) -> Prepared {
    BEFORE.with_borrow_mut(|before| *before = Some(Box::new(hook)));
    Prepared(PhantomData)
}

impl Drop for Prepared {
    fn drop(&mut self) {
        BEFORE.with_borrow_mut(|before| *before = None);
    }
}

/// This thread is about to wait.
pub fn about_to_wait() {
    BEFORE.with_borrow(|before| {
        if let Some(hook) = before {
            hook();
        }
    });
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn the_hook_of_a_thread_is_called_while_it_is_set() {
        let calls = Rc::new(Cell::new(0));
        about_to_wait();
        let counted = Rc::clone(&calls);
        let prepared = before_waiting(move || counted.set(counted.get() + 1));
        about_to_wait();
        std::thread::spawn(about_to_wait).join().unwrap();
        about_to_wait();
        assert_eq!(calls.get(), 2);
        drop(prepared);
        about_to_wait();
        assert_eq!(calls.get(), 2);
    }
}
