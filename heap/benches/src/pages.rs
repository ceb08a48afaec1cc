//! Pages: those that a trace's blocks touch, and a source of pages that are mapped while they are
//! lent, and counted.

use std::collections::HashSet;
use std::ptr::null_mut;
use std::sync::Mutex;

use heap::vmem::{Error, Layout, Result, Source};

use crate::replay::Slot;

/// The size of a page in bytes.
pub const PAGE: usize = 4096;

/// The bytes of addresses for each range.
const ROOM: usize = 1 << 30;
/// The number of ranges.
const RANGES: usize = 64;

/// Returns the bytes of pages with live bytes, and the live bytes.
pub fn touched(slots: &[Slot]) -> (usize, usize) {
    let mut pages = HashSet::new();
    let mut live = 0;
    for (base, size) in slots.iter().filter_map(Slot::block) {
        live += size;
        pages.extend(base / PAGE..=(base + size - 1) / PAGE);
    }
    (pages.len() * PAGE, live)
}

/// A source of page ranges, each with a gibibyte of addresses. A page without memory cannot be
/// accessed.
pub struct Pages {
    base: usize,
    makes_holes: bool,
    state: Mutex<State>,
}

struct State {
    /// Whether the addresses of each range are lent.
    lent: [bool; RANGES],
    /// Whether each page is memory, by range.
    mapped: Vec<Vec<bool>>,
    count: usize,
    ever: usize,
    most: usize,
}

impl Pages {
    /// Reserves the addresses. `makes_holes` says whether pages inside a range can be taken back.
    pub fn new(makes_holes: bool) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let size = ROOM * (RANGES + 1);
        // SAFETY: a new mapping at an address that the system chooses touches nothing that exists.
        let mapping = unsafe { libc::mmap(null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(mapping, libc::MAP_FAILED, "no addresses are left");
        Self {
            base: mapping.expose_provenance().next_multiple_of(ROOM),
            makes_holes,
            state: Mutex::new(State {
                lent: [false; RANGES],
                mapped: vec![Vec::new(); RANGES],
                count: 0,
                ever: 0,
                most: 0,
            }),
        }
    }

    /// Returns the number of pages that are memory.
    pub fn count(&self) -> usize {
        self.state.lock().expect("no thread has panicked").count
    }

    /// Returns the number of pages that have become memory so far, and the most at one time.
    pub fn ever_and_most(&self) -> (usize, usize) {
        let state = self.state.lock().expect("no thread has panicked");
        (state.ever, state.most)
    }

    /// Makes the pages that are not memory memory, or the reverse.
    fn set(&self, base: usize, size: usize, is_mapped: bool) {
        let (range, first) = ((base - self.base) / ROOM, (base - self.base) % ROOM / PAGE);
        let mut state = self.state.lock().expect("no thread has panicked");
        let pages = &mut state.mapped[range];
        if pages.len() < first + size / PAGE {
            pages.resize(first + size / PAGE, false);
        }
        let mut changed = 0;
        for (index, page) in pages[first..first + size / PAGE].iter_mut().enumerate() {
            if *page != is_mapped {
                *page = is_mapped;
                changed += 1;
                protect(base + index * PAGE, is_mapped);
            }
        }
        if is_mapped {
            state.count += changed;
            state.ever += changed;
            state.most = state.most.max(state.count);
        } else {
            state.count -= changed;
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let base = std::ptr::with_exposed_provenance_mut(self.base);
        // SAFETY: the addresses were reserved by `new`, and none of them is in use.
        unsafe { libc::munmap(base, ROOM * RANGES) };
    }
}

/// Makes a page memory, which is zero, or takes the memory back.
fn protect(page: usize, is_mapped: bool) {
    let page = std::ptr::with_exposed_provenance_mut(page);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the page lies in the reserved range, and is not in use.
    let result = unsafe {
        if is_mapped {
            libc::mprotect(page, PAGE, access)
        } else {
            libc::madvise(page, PAGE, libc::MADV_DONTNEED)
                | libc::mprotect(page, PAGE, libc::PROT_NONE)
        }
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

impl Source for Pages {
    fn quantum(&self) -> usize {
        PAGE
    }

    fn import(&self, layout: Layout) -> Result<usize> {
        let size = layout.size();
        let mut state = self.state.lock().expect("no thread has panicked");
        let free = state.lent.iter().position(|lent| !lent);
        let range = free
            .filter(|_| size <= ROOM && layout.align() <= ROOM && layout.phase().is_none())
            .ok_or(Error::Empty { size })?;
        state.lent[range] = true;
        drop(state);
        let base = self.base + range * ROOM;
        self.set(base, size, true);
        Ok(base)
    }

    unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
        self.set(base, size, false);
        let mut state = self.state.lock().expect("no thread has panicked");
        state.lent[(base - self.base) / ROOM] = false;
        Ok(())
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        if new_size > ROOM {
            return Err(Error::Empty { size: new_size });
        }
        self.set(base + size, new_size - size, true);
        Ok(())
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
        self.set(base + new_size, size - new_size, false);
        Ok(())
    }

    unsafe fn discard(&self, base: usize, size: usize) -> Result<()> {
        if !self.makes_holes {
            return Err(Error::NotSupported);
        }
        self.set(base, size, false);
        Ok(())
    }

    unsafe fn restore(&self, base: usize, size: usize) -> Result<()> {
        self.set(base, size, true);
        Ok(())
    }
}
