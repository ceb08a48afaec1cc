//! A heap over `mmap`, which gives pages back from its middle.
//!
//!     cargo run -p heap --example holes
//!
//! The pages are real: one that was given back has no memory, and an access to it would end the
//! program.

#[cfg(target_os = "linux")]
mod pages {
    use std::ptr::{null_mut, with_exposed_provenance_mut};
    use std::sync::atomic::{
        AtomicBool,
        Ordering::{AcqRel, Release},
    };

    use heap::vmem::{Error, Layout, PAGE_SIZE, Result, Source};

    /// A range of reserved addresses, which is lent once. Lent pages are memory unless they are
    /// discarded.
    pub(crate) struct Reserved {
        base: usize,
        size: usize,
        is_lent: AtomicBool,
    }

    impl Reserved {
        pub(crate) fn new(size: usize) -> std::io::Result<Self> {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            // SAFETY: a new mapping at an address that the system chooses touches nothing else.
            let base = unsafe { libc::mmap(null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
            if base == libc::MAP_FAILED {
                return Err(std::io::Error::last_os_error());
            }
            Ok(Self {
                base: base.expose_provenance(),
                size,
                is_lent: AtomicBool::new(false),
            })
        }

        /// Returns how many pages the system has given memory to.
        pub(crate) fn resident(&self) -> usize {
            let mut pages = vec![0_u8; self.size / PAGE_SIZE];
            let base = with_exposed_provenance_mut(self.base);
            // SAFETY: the range is mapped, and `pages` has a byte for each page.
            let result = unsafe { libc::mincore(base, self.size, pages.as_mut_ptr()) };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            pages.iter().filter(|&page| page & 1 == 1).count()
        }

        /// Makes pages memory, which is zero where it was none.
        fn commit(base: usize, size: usize) -> Result<()> {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: only pages of the reserved range are passed.
            match unsafe { libc::mprotect(with_exposed_provenance_mut(base), size, access) } {
                0 => Ok(()),
                _ => Err(Error::Other("the system has no memory")),
            }
        }

        /// Takes the memory of pages back.
        fn decommit(base: usize, size: usize) -> Result<()> {
            let pages = with_exposed_provenance_mut(base);
            // SAFETY: only pages of the reserved range are passed, and they are not in use.
            let result = unsafe {
                libc::madvise(pages, size, libc::MADV_DONTNEED)
                    | libc::mprotect(pages, size, libc::PROT_NONE)
            };
            match result {
                0 => Ok(()),
                _ => Err(Error::Other("the system keeps the memory")),
            }
        }
    }

    impl Source for Reserved {
        fn quantum(&self) -> usize {
            PAGE_SIZE
        }

        fn import(&self, layout: Layout) -> Result<usize> {
            let size = layout.size();
            if size > self.size || layout.align() > PAGE_SIZE || self.is_lent.swap(true, AcqRel) {
                return Err(Error::Empty { size });
            }
            let committed = Self::commit(self.base, size);
            if committed.is_err() {
                self.is_lent.store(false, Release);
            }
            committed.map(|()| self.base)
        }

        unsafe fn release(&self, base: usize, size: usize) -> Result<()> {
            Self::decommit(base, size)?;
            self.is_lent.store(false, Release);
            Ok(())
        }

        unsafe fn extend(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
            if new_size > self.size {
                return Err(Error::Empty { size: new_size });
            }
            Self::commit(base + size, new_size - size)
        }

        unsafe fn shrink(&self, base: usize, size: usize, new_size: usize) -> Result<()> {
            Self::decommit(base + new_size, size - new_size)
        }

        unsafe fn discard(&self, base: usize, size: usize) -> Result<()> {
            Self::decommit(base, size)
        }

        unsafe fn restore(&self, base: usize, size: usize) -> Result<()> {
            Self::commit(base, size)
        }
    }
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use allocator_api2::vec::Vec;
    use heap::source::ArenaSource;
    use heap::talc::TalcLock;
    use heap::vmem::{Arena, LockApi, NoPages, PAGE_SIZE, TagPool};

    type Lock = LockApi<spin::Mutex<()>>;

    let tags: TagPool<Lock, NoPages> = TagPool::new(Lock::new(), NoPages);
    let pages = pages::Reserved::new(64 << 20)?;
    let arena =
        Arena::<_, Lock>::create("pages", PAGE_SIZE, Some(&pages), &tags)?.with_retained_spans(0);
    // SAFETY: what the arena allocates is memory, zero, and only this source uses the arena.
    let source = unsafe { ArenaSource::new(&arena).of_zeroed_memory() };
    let heap = TalcLock::<spin::Mutex<()>, _>::new(source);

    let mut documents: std::vec::Vec<_> = (0..100)
        .map(|number| {
            let mut document = Vec::with_capacity_in(100_000, &heap);
            document.resize(100_000, number as u8);
            document
        })
        .collect();
    println!("{:>6} pages with 100 documents", pages.resident());

    // Every tenth is kept. What lies between them is free, but still memory.
    let mut number = 0;
    documents.retain(|_| {
        number += 1;
        number % 10 == 0
    });
    println!("{:>6} pages with every tenth of them", pages.resident());
    let given = heap.punch();
    println!(
        "{:>6} pages after {} went back",
        pages.resident(),
        given / PAGE_SIZE
    );
    assert!(
        documents
            .iter()
            .all(|document| document.iter().all(|byte| *byte == document[0]))
    );

    let mut more = Vec::with_capacity_in(500_000, &heap);
    more.resize(500_000, 1_u8);
    println!("{:>6} pages with one more document", pages.resident());
    drop((documents, more));
    heap.lock().trim();
    heap.drain()?;
    println!("{:>6} page when all is freed", pages.resident());
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("this example calls `mmap` as Linux has it");
}
