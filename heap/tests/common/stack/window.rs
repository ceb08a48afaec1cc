//! A page source of real memory, in which free pages and holes are unmapped.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ptr::{NonNull, null_mut};
use std::sync::Mutex;

use heap::vmem::{self, Error, Layout, Source};

use crate::common::programs::tell;

use super::injection::{Call, Injection};
use super::interrupt::interrupt;
use super::page_faults::Watch;

pub(crate) const PAGE: usize = 4096;

/// The alignment of windows, so that programs behave the same at any address.
const ALIGN: usize = 1 << 21;

/// The contents of new pages that need not be zero.
const LITTER: u8 = 0xc3;

/// A reserved range of addresses in which pages are mapped and unmapped.
///
/// ```text
///     base
///     ├─ lent: rw ───┬─ guard: none ─┬─ free: none ──────────┬─ lent: rw ──┬─ guard ┄
/// ```
///
/// Pages that are given back are unmapped and lose their contents. An access to them is
/// [recorded](super::page_faults).
pub(crate) struct Window {
    /// The reserved range. The window begins at its first multiple of [`ALIGN`].
    mapping: NonNull<u8>,
    base: NonNull<u8>,
    pages: usize,
    /// Whether a guard page above each range stays unmapped and is lent to no other user.
    guarded: bool,
    /// Whether a range can be extended and shrunk.
    resizable: bool,
    /// Whether pages inside a range can be taken back.
    makes_holes: bool,
    /// Whether new pages are zero.
    zeroed: bool,
    books: Mutex<Books>,
    watch: Watch,
    pub injection: Injection,
}

/// The lent ranges, in pages from the base of the window.
struct Books {
    taken: Vec<bool>,
    /// Whether each page is lent but was taken back.
    holes: Vec<bool>,
    /// The end of each lent range, by its base.
    lent: BTreeMap<usize, usize>,
    /// The most pages that are mapped.
    limit: usize,
}

impl Books {
    /// Returns the number of pages that are lent.
    fn count(&self) -> usize {
        self.lent.iter().map(|(from, to)| to - from).sum()
    }

    /// Returns the number of pages that are mapped.
    fn mapped(&self) -> usize {
        self.count() - self.holes.iter().filter(|&&is_hole| is_hole).count()
    }
}

// SAFETY: the window accesses only pages that are not lent, and the mutex guards its state.
unsafe impl Sync for Window {}
// SAFETY: a mapping can be used and unmapped by any thread.
unsafe impl Send for Window {}

/// The properties of a [`Window`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Properties {
    pub pages: usize,
    pub guarded: bool,
    pub resizable: bool,
    pub makes_holes: bool,
    pub zeroed: bool,
    pub short_of_tags: bool,
}

impl Window {
    pub(crate) fn new(properties: Properties) -> Self {
        let Properties {
            pages,
            guarded,
            resizable,
            makes_holes,
            zeroed,
            short_of_tags,
        } = properties;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let reserved = pages * PAGE + ALIGN;
        // SAFETY: a new mapping at an address that the system chooses touches nothing that exists.
        let mapping = unsafe { libc::mmap(null_mut(), reserved, libc::PROT_NONE, flags, -1, 0) };
        let error = std::io::Error::last_os_error();
        assert_ne!(mapping, libc::MAP_FAILED, "{error}");
        mapping.expose_provenance();
        let mapping = NonNull::new(mapping.cast::<u8>()).expect("nothing is mapped at zero");
        let base = mapping.map_addr(|address| {
            let base = address.get().next_multiple_of(ALIGN);
            NonZero::new(base).expect("it is no lower")
        });
        Self {
            mapping,
            base,
            pages,
            guarded,
            resizable,
            makes_holes,
            zeroed,
            books: Mutex::new(Books {
                taken: vec![false; pages],
                holes: vec![false; pages],
                lent: BTreeMap::new(),
                limit: pages,
            }),
            watch: Watch::new(base, pages * PAGE),
            injection: Injection::new(zeroed, short_of_tags),
        }
    }

    /// Returns the bytes that are lent.
    pub(crate) fn lent(&self) -> usize {
        self.books.lock().unwrap().count() * PAGE
    }

    /// Returns the bytes that are mapped.
    pub(crate) fn mapped(&self) -> usize {
        self.books.lock().unwrap().mapped() * PAGE
    }

    /// Sets the most pages that are mapped at a time.
    pub(crate) fn limit(&self, pages: usize) {
        self.books.lock().unwrap().limit = pages;
    }

    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Asserts that no unmapped page was accessed.
    pub(crate) fn assert_no_fault(&self) {
        if let Some(address) = self.watch.fault() {
            let page = (address - self.base.addr().get()) / PAGE;
            panic!("page {page} of the window was accessed at {address:#x} while it was not lent");
        }
    }

    /// Maps `pages` pages at the base of the window permanently, and returns their address.
    pub(crate) fn keep(&self, pages: usize) -> usize {
        self.books.lock().unwrap().taken[..pages].fill(true);
        self.map(0, pages);
        self.address(0)
    }

    fn page(&self, address: usize) -> usize {
        (address - self.base.addr().get()) / PAGE
    }

    fn address(&self, page: usize) -> usize {
        self.base.addr().get() + page * PAGE
    }

    fn map(&self, from: usize, to: usize) {
        self.protect(from, to, libc::PROT_READ | libc::PROT_WRITE);
        if !self.zeroed {
            // SAFETY: the pages lie in the window, were mapped above, and are not lent yet.
            unsafe {
                let start = self.base.byte_add(from * PAGE);
                start.write_bytes(LITTER, (to - from) * PAGE);
            }
        }
    }

    fn unmap(&self, from: usize, to: usize) {
        // SAFETY: the pages lie in the window, and were given back.
        let result = unsafe {
            let start = self.base.byte_add(from * PAGE);
            libc::madvise(
                start.as_ptr().cast(),
                (to - from) * PAGE,
                libc::MADV_DONTNEED,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        self.protect(from, to, libc::PROT_NONE);
    }

    fn protect(&self, from: usize, to: usize, access: libc::c_int) {
        // SAFETY: the pages lie in the window, and are not in use.
        let result = unsafe {
            let start = self.base.byte_add(from * PAGE);
            libc::mprotect(start.as_ptr().cast(), (to - from) * PAGE, access)
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Does a call, unless fault injection refuses it. Interrupts come before and after. Counts the
    /// result.
    fn attempt<T>(
        &self,
        call: Call,
        base: usize,
        work: impl FnOnce() -> vmem::Result<T>,
    ) -> vmem::Result<T> {
        let refused = self.injection.refuses(call);
        interrupt(call, base);
        let result = if refused {
            Err(Error::Other("the window refuses"))
        } else {
            work()
        };
        self.injection.note(call, result.is_ok());
        tell(format_args!(
            "the window's {call:?} of {base:#x}: {}",
            result.is_ok()
        ));
        interrupt(call, base);
        result
    }

    /// Asserts that the pages lie in one range that is lent.
    fn assert_lent(&self, from: usize, to: usize) {
        let books = self.books.lock().unwrap();
        let range = books.lent.range(..=from).next_back();
        assert!(
            range.is_some_and(|(_, &end)| to <= end),
            "pages {from} to {to} are not lent"
        );
    }

    /// Returns the first free run of `count` pages, guard page included, that meets the constraints
    /// of the layout.
    fn find(&self, taken: &[bool], count: usize, layout: &Layout) -> Option<usize> {
        let mut run = 0;
        for (page, &is_taken) in taken.iter().enumerate() {
            run = if is_taken { 0 } else { run + 1 };
            let phase = layout.phase().unwrap_or(0);
            let aligned =
                |from: &usize| self.address(*from).wrapping_sub(phase) % layout.align() == 0;
            if run >= count {
                if let Some(from) = Some(page + 1 - count).filter(aligned) {
                    return Some(from);
                }
            }
        }
        None
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the range was mapped with this size, and none of its pages is in use.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.pages * PAGE + ALIGN) };
    }
}

impl Source for Window {
    fn import(&self, layout: Layout) -> vmem::Result<usize> {
        let pages = layout.size() / PAGE;
        assert!(layout.size() % PAGE == 0 && layout.align() >= PAGE);
        self.attempt(Call::Import, 0, || {
            let mut books = self.books.lock().unwrap();
            let run = pages + usize::from(self.guarded);
            let exhausted = Error::Empty {
                size: layout.size(),
            };
            if books.mapped() + pages > books.limit {
                return Err(exhausted);
            }
            let from = self.find(&books.taken, run, &layout).ok_or(exhausted)?;
            books.taken[from..from + run].fill(true);
            books.lent.insert(from, from + pages);
            self.map(from, from + pages);
            Ok(self.address(from))
        })
    }

    unsafe fn release(&self, base: usize, size: usize) -> vmem::Result<()> {
        let (from, to) = (self.page(base), self.page(base + size));
        self.attempt(Call::Release, base, || {
            self.unmap(from, to);
            // An interrupt may come before the addresses are free.
            interrupt(Call::Release, base);
            let mut books = self.books.lock().unwrap();
            assert_eq!(books.lent.remove(&from), Some(to), "another range was lent");
            books.holes[from..to].fill(false);
            books.taken[from..to + usize::from(self.guarded)].fill(false);
            Ok(())
        })
    }

    unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> vmem::Result<()> {
        if !self.resizable {
            return Err(Error::NotSupported);
        }
        let guard = usize::from(self.guarded);
        let [from, old, new] = [base, base + size, base + new_size].map(|at| self.page(at));
        self.attempt(Call::Extend, base, || {
            let mut books = self.books.lock().unwrap();
            assert_eq!(books.lent.get(&from), Some(&old), "another range was lent");
            let is_room = new + guard <= self.pages
                && !books.taken[old + guard..new + guard].contains(&true)
                && books.mapped() + (new - old) <= books.limit;
            if !is_room {
                return Err(Error::Empty { size: new_size });
            }
            books.taken[old..new + guard].fill(true);
            books.lent.insert(from, new);
            self.map(old, new);
            Ok(())
        })
    }

    unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> vmem::Result<()> {
        if !self.resizable {
            return Err(Error::NotSupported);
        }
        let guard = usize::from(self.guarded);
        let [from, old, new] = [base, base + size, base + new_size].map(|at| self.page(at));
        self.attempt(Call::Shrink, base, || {
            self.unmap(new, old);
            interrupt(Call::Shrink, base);
            let mut books = self.books.lock().unwrap();
            assert_eq!(
                books.lent.insert(from, new),
                Some(old),
                "another range was lent"
            );
            books.holes[new..old].fill(false);
            books.taken[new + guard..old + guard].fill(false);
            Ok(())
        })
    }

    unsafe fn discard(&self, base: usize, size: usize) -> vmem::Result<()> {
        if !self.makes_holes {
            return Err(Error::NotSupported);
        }
        let (from, to) = (self.page(base), self.page(base + size));
        self.attempt(Call::Discard, base, || {
            self.assert_lent(from, to);
            self.unmap(from, to);
            // An interrupt may come before the books are in order.
            interrupt(Call::Discard, base);
            self.books.lock().unwrap().holes[from..to].fill(true);
            Ok(())
        })
    }

    unsafe fn restore(&self, base: usize, size: usize) -> vmem::Result<()> {
        let (from, to) = (self.page(base), self.page(base + size));
        self.attempt(Call::Restore, base, || {
            self.assert_lent(from, to);
            let mut books = self.books.lock().unwrap();
            let missing: Vec<_> = (from..to).filter(|&page| books.holes[page]).collect();
            if books.mapped() + missing.len() > books.limit {
                return Err(Error::Empty { size });
            }
            for page in missing {
                self.map(page, page + 1);
                books.holes[page] = false;
            }
            Ok(())
        })
    }
}
