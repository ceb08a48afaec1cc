//! Stage two of "Lift it" in `README.md`, on the host: a heap over a mapper and a frame allocator.
//!
//!     cargo run -p heap --example page_mapping
//!
//! `machine` stands for what a kernel has already. Its physical memory is a file in memory, and its
//! mapper writes page tables into it, as in a kernel. Then it maps the page for this process too.
//! So a page that went back is not memory, and an access to it would end the program.
#![cfg_attr(all(target_os = "linux", target_arch = "x86_64"), no_main)]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod machine {
    use std::ops::Range;
    use std::ptr::{null_mut, with_exposed_provenance_mut};

    use x86_64::structures::paging::mapper::{
        CleanUp, FlagUpdateError, MapToError, MapperFlush, MapperFlushAll, TranslateError,
        UnmapError,
    };
    use x86_64::structures::paging::page::PageRangeInclusive;
    use x86_64::structures::paging::{
        FrameAllocator, FrameDeallocator, Mapper, OffsetPageTable, Page, PageTableFlags, PhysFrame,
        Size4KiB,
    };
    use x86_64::{PhysAddr, VirtAddr};

    /// The size of physical memory in bytes.
    const SIZE: u64 = 64 << 20;

    /// The addresses for the heap.
    const WINDOW_SIZE: usize = 1 << 30;

    /// The machine, before its kernel has a heap.
    pub(crate) struct Machine {
        pub(crate) mapper: HostMapper,
        pub(crate) frames: Frames,
        /// Where physical address 0 is mapped.
        pub(crate) offset: VirtAddr,
        pub(crate) window: Range<usize>,
    }

    impl Machine {
        pub(crate) fn boot() -> Self {
            // SAFETY: the name is a C string.
            let file = unsafe { libc::memfd_create(c"physical memory".as_ptr(), 0) };
            // SAFETY: changes the size of a file that no other code has.
            let resized = unsafe { libc::ftruncate(file, SIZE as libc::off_t) };
            assert_eq!(resized, 0, "{}", std::io::Error::last_os_error());
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: the system chooses the addresses.
            let memory = unsafe { mmap(0, SIZE as usize, access, libc::MAP_SHARED, file, 0) };
            let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            // SAFETY: the system chooses the addresses.
            let window = unsafe { mmap(0, WINDOW_SIZE, libc::PROT_NONE, reserve, -1, 0) };
            let offset = VirtAddr::new(memory as u64);
            // SAFETY: frame 0 is mapped there and zero, so it is an empty table. It is not handed
            // out.
            let table = unsafe { &mut *with_exposed_provenance_mut(memory) };
            // SAFETY: all of the file is mapped at the offset.
            let tables = unsafe { OffsetPageTable::new(table, offset) };
            Self {
                mapper: HostMapper { tables, file },
                frames: Frames {
                    unused: 4096,
                    freed: 0,
                    in_use: 0,
                    offset,
                },
                offset,
                window: window..window + WINDOW_SIZE,
            }
        }
    }

    /// Calls `mmap`, at `address` if it is not 0.
    ///
    /// # Safety
    /// No code uses the memory that was at `address`.
    unsafe fn mmap(
        address: usize,
        size: usize,
        access: i32,
        mut flags: i32,
        file: i32,
        at: u64,
    ) -> usize {
        let base = match address {
            0 => null_mut(),
            _ => {
                flags |= libc::MAP_FIXED;
                with_exposed_provenance_mut(address)
            }
        };
        // SAFETY: the caller guarantees that no code uses the memory at the address.
        let base = unsafe { libc::mmap(base, size, access, flags, file, at as libc::off_t) };
        assert!(
            base != libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        base.expose_provenance()
    }

    /// Frames, in order; then those that were freed, each of which has the address of the next.
    pub(crate) struct Frames {
        unused: u64,
        freed: u64,
        pub(crate) in_use: usize,
        offset: VirtAddr,
    }

    impl Frames {
        fn link(&self, frame: u64) -> *mut u64 {
            with_exposed_provenance_mut((self.offset.as_u64() + frame) as usize)
        }
    }

    // SAFETY: a frame is handed out once, until it is freed.
    unsafe impl FrameAllocator<Size4KiB> for Frames {
        fn allocate_frame(&mut self) -> Option<PhysFrame> {
            let address = match self.freed {
                0 if self.unused == SIZE => return None,
                0 => {
                    self.unused += 4096;
                    self.unused - 4096
                }
                freed => {
                    // SAFETY: a free frame has the address of the next.
                    self.freed = unsafe { self.link(freed).read() };
                    freed
                }
            };
            self.in_use += 1;
            Some(PhysFrame::containing_address(PhysAddr::new(address)))
        }
    }

    impl FrameDeallocator<Size4KiB> for Frames {
        unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
            let address = frame.start_address().as_u64();
            // SAFETY: the caller guarantees that no code uses the frame.
            unsafe { self.link(address).write(self.freed) };
            self.freed = address;
            self.in_use -= 1;
        }
    }

    /// A mapper whose pages this process can use.
    pub(crate) struct HostMapper {
        tables: OffsetPageTable<'static>,
        file: i32,
    }

    impl Mapper<Size4KiB> for HostMapper {
        unsafe fn map_to_with_table_flags<A>(
            &mut self,
            page: Page,
            frame: PhysFrame,
            flags: PageTableFlags,
            parent_flags: PageTableFlags,
            frames: &mut A,
        ) -> Result<MapperFlush<Size4KiB>, MapToError<Size4KiB>>
        where
            A: FrameAllocator<Size4KiB> + ?Sized,
        {
            // SAFETY: the caller keeps the contract of the method of the same name.
            let flush = unsafe {
                self.tables
                    .map_to_with_table_flags(page, frame, flags, parent_flags, frames)?
            };
            let (address, at) = (page.start_address().as_u64(), frame.start_address());
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let (flags, at) = (libc::MAP_SHARED, at.as_u64());
            // SAFETY: the page is in the window, and was not mapped.
            unsafe { mmap(address as usize, 4096, access, flags, self.file, at) };
            Ok(flush)
        }

        fn unmap(&mut self, page: Page) -> Result<(PhysFrame, MapperFlush<Size4KiB>), UnmapError> {
            let unmapped = self.tables.unmap(page)?;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let address = page.start_address().as_u64() as usize;
            // SAFETY: the page is in the window, and was mapped by this mapper. (The function is
            // safe in the crate `x86_64`. The heap calls it for pages that are not in use.)
            unsafe { mmap(address, 4096, libc::PROT_NONE, flags, -1, 0) };
            Ok(unmapped)
        }

        fn translate_page(&self, page: Page) -> Result<PhysFrame, TranslateError> {
            self.tables.translate_page(page)
        }

        // The heap changes no flags.
        unsafe fn update_flags(
            &mut self,
            _: Page,
            _: PageTableFlags,
        ) -> Result<MapperFlush<Size4KiB>, FlagUpdateError> {
            Err(FlagUpdateError::PageNotMapped)
        }

        unsafe fn set_flags_p4_entry(
            &mut self,
            _: Page,
            _: PageTableFlags,
        ) -> Result<MapperFlushAll, FlagUpdateError> {
            Err(FlagUpdateError::PageNotMapped)
        }

        unsafe fn set_flags_p3_entry(
            &mut self,
            _: Page,
            _: PageTableFlags,
        ) -> Result<MapperFlushAll, FlagUpdateError> {
            Err(FlagUpdateError::PageNotMapped)
        }

        unsafe fn set_flags_p2_entry(
            &mut self,
            _: Page,
            _: PageTableFlags,
        ) -> Result<MapperFlushAll, FlagUpdateError> {
            Err(FlagUpdateError::PageNotMapped)
        }
    }

    impl CleanUp for HostMapper {
        unsafe fn clean_up<D: FrameDeallocator<Size4KiB>>(&mut self, frames: &mut D) {
            // SAFETY: the caller keeps the contract of the method of the same name.
            unsafe { self.tables.clean_up(frames) };
        }

        unsafe fn clean_up_addr_range<D: FrameDeallocator<Size4KiB>>(
            &mut self,
            range: PageRangeInclusive,
            frames: &mut D,
        ) {
            // SAFETY: the caller keeps the contract of the method of the same name.
            unsafe { self.tables.clean_up_addr_range(range, frames) };
        }
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kernel {
    use std::collections::BTreeMap;

    use heap_x86_64::{Heap, MapperMemory};

    use super::machine::{Frames, HostMapper, Machine};

    type KernelMemory = MapperMemory<HostMapper, Frames>;

    static MEMORY: KernelMemory = MapperMemory::new();

    // SAFETY: on the host, a lock makes threads take turns as the one CPU.
    #[global_allocator]
    static HEAP: Heap<KernelMemory> = unsafe { Heap::new(&MEMORY) };

    /// Makes allocations succeed.
    fn start_heap(machine: Machine) {
        // SAFETY: the memory is mapped at the offset, for ever, and only the heap uses this mapper.
        unsafe { MEMORY.init(machine.mapper, machine.frames, machine.offset) };
        // SAFETY: the window is reserved, and no code but the heap uses it.
        unsafe { HEAP.init(machine.window) }.expect("the window begins and ends at a page");
    }

    /// Returns the number of frames that are in use: of the heap, its page tables and its tags.
    fn frames_in_use() -> usize {
        // SAFETY: the allocator is only asked for its count.
        unsafe { MEMORY.frames() }.lock().in_use
    }

    // As in a kernel, nothing may allocate before the heap has its pages. The standard library does
    // so before it calls a `main` of Rust, so this `main` is C's.
    // SAFETY: a program has one `main`, and there is none but this.
    #[unsafe(no_mangle)]
    extern "C" fn main() -> i32 {
        start_heap(Machine::boot());
        println!("{:>6} frames at the beginning", frames_in_use());
        let documents: Vec<Vec<u8>> = (0..100).map(|n| vec![n; 60_000]).collect();
        let squares: BTreeMap<u64, u64> = (0..10_000).map(|n| (n, n * n)).collect();
        println!("{:>6} frames with 6 MB and a map", frames_in_use());
        assert!(documents.iter().zip(0..).all(|(text, n)| text[59_999] == n));
        drop(documents);
        println!(
            "{:>6} frames when the 6 MB are freed: those below the map wait for a pass",
            frames_in_use()
        );
        HEAP.reap();
        println!("{:>6} frames after a reap", frames_in_use());
        assert_eq!(squares[&31], 961);
        drop(squares);
        HEAP.reap();
        println!("{:>6} frames when all is freed", frames_in_use());
        0
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    println!("this example maps pages of an x86-64 machine, as Linux does");
}
