//! Accesses to pages that are not there, which are noted instead of ending the test.
//!
//! ```text
//!     an access ──> SIGSEGV ──> on_fault: in a watched range?   yes: note the address, map the page, go on
//!                                                               no:  as if this handler were not there
//! ```
//!
//! The test looks at what was noted after each step, so the program that faults can be shortened.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use libc::{c_int, c_void, siginfo_t};

use super::window::PAGE;
use crate::common::programs::running;

/// A range of addresses whose faults are noted.
struct Range {
    /// Zero while the entry is free.
    base: AtomicUsize,
    size: AtomicUsize,
    /// Where the first fault was, if there was any.
    fault: AtomicUsize,
}

/// As many ranges as tests may run at the same time.
static RANGES: [Range; 64] = [const {
    Range {
        base: AtomicUsize::new(0),
        size: AtomicUsize::new(0),
        fault: AtomicUsize::new(0),
    }
}; 64];

/// What was done about the signal before, and is done about faults elsewhere.
struct Before(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: it is written once, before the handler is installed that reads it.
unsafe impl Sync for Before {}

static BEFORE: Before = Before(UnsafeCell::new(MaybeUninit::uninit()));

/// Watches a range as long as it lives.
pub struct Watch(&'static Range);

impl Watch {
    /// Notes faults in `size` bytes from `base` from now on.
    pub fn new(base: NonNull<u8>, size: usize) -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(install);
        let base = base.addr().get();
        let range = RANGES
            .iter()
            .find(|range| range.base.compare_exchange(0, base, SeqCst, SeqCst).is_ok())
            .expect("not as many tests at a time");
        range.fault.store(0, SeqCst);
        range.size.store(size, SeqCst);
        Self(range)
    }

    /// The address of the first fault since the range is watched.
    pub fn fault(&self) -> Option<usize> {
        Some(self.0.fault.load(SeqCst)).filter(|&address| address != 0)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.size.store(0, SeqCst);
        self.0.base.store(0, SeqCst);
    }
}

fn install() {
    // SAFETY: all-zero bytes are a valid `sigaction`: no flags, and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: nobody reads it before the handler is installed, and `call_once` writes it once.
    let before = unsafe { (*BEFORE.0.get()).as_mut_ptr() };
    // SAFETY: both point to a `sigaction`. The handler only calls what a signal handler may call.
    let results = unsafe {
        [
            libc::sigaction(libc::SIGSEGV, null(), before),
            libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()),
        ]
    };
    assert_eq!(results, [0, 0]);
}

extern "C" fn on_fault(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes the address of a fault with this signal.
    let address = unsafe { (*info).si_addr() }.addr();
    let watched = RANGES
        .iter()
        .find(|range| address.wrapping_sub(range.base.load(SeqCst)) < range.size.load(SeqCst));
    match watched {
        Some(range) => {
            let _ = range.fault.compare_exchange(0, address, SeqCst, SeqCst);
            let page = std::ptr::without_provenance_mut(address / PAGE * PAGE);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: the page is of a watched range, which the test has reserved for itself.
            unsafe { libc::mprotect(page, PAGE, access) };
        }
        // The instruction faults again when this returns.
        None => {
            if let Some(seed) = running() {
                tell_seed(seed);
            }
            // SAFETY: it was written before this handler was installed.
            unsafe {
                libc::sigaction(
                    libc::SIGSEGV,
                    (*BEFORE.0.get()).as_ptr(),
                    std::ptr::null_mut(),
                );
            }
        }
    }
}

/// Says which program ends the process, without allocating.
fn tell_seed(seed: u64) {
    let mut digits = [0; 20];
    let mut rest = seed;
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    for part in [
        b"\nHEAP_SEED=".as_slice(),
        &digits[from..],
        b" ends the process\n",
    ] {
        // SAFETY: the part is initialised, and as long as is said.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
}
