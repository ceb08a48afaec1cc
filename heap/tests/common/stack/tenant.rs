//! A tenant: another user of the arena, which takes pages beside those of the heap, writes to them
//! and verifies their contents.

use std::cell::RefCell;
use std::ptr::with_exposed_provenance_mut;

use heap::vmem::AllocPolicy::{BestFit, InstantFit, NextFit};
use heap::vmem::{Error, Layout};

use super::PageArena;
use super::window::PAGE;
use crate::common::programs::tell;
use crate::common::random::Choices;

/// A range of the arena, filled with one byte value.
#[derive(Clone, Copy)]
struct Holding {
    base: usize,
    size: usize,
    byte: u8,
}

impl Holding {
    fn fill(&self, from: usize) {
        // SAFETY: the arena has allocated the range to this tenant, and its memory is mapped.
        unsafe {
            let start = with_exposed_provenance_mut::<u8>(self.base + from);
            start.write_bytes(self.byte, self.size - from);
        }
    }

    fn assert_intact(&self, size: usize) {
        // SAFETY: the range belongs to the tenant, which has written to all of it.
        let bytes = unsafe {
            std::slice::from_raw_parts(with_exposed_provenance_mut::<u8>(self.base), size)
        };
        if let Some(at) = bytes.iter().position(|&byte| byte != self.byte) {
            panic!(
                "another user wrote {:#04x} to {:#x}, in the pages of this tenant",
                bytes[at],
                self.base + at
            );
        }
    }
}

/// The ranges of one tenant.
#[derive(Default)]
pub(crate) struct Tenant {
    holdings: Vec<Holding>,
    next_byte: u8,
}

impl Tenant {
    /// Returns the bytes of all holdings.
    pub(crate) fn bytes(&self) -> usize {
        self.holdings.iter().map(|holding| holding.size).sum()
    }

    /// Returns whether one of the holdings begins at this address.
    pub(crate) fn has(&self, base: usize) -> bool {
        self.holdings.iter().any(|holding| holding.base == base)
    }

    pub(crate) fn assert_all_intact(&self) {
        for holding in &self.holdings {
            holding.assert_intact(holding.size);
        }
    }

    fn enter(&mut self, base: usize, size: usize) {
        self.next_byte = self.next_byte.wrapping_add(1);
        let holding = Holding {
            base,
            size,
            byte: self.next_byte,
        };
        tell(format_args!("another user takes {size:#x} at {base:#x}"));
        holding.fill(0);
        self.holdings.push(holding);
    }

    fn take_out(&mut self, choices: &mut impl Choices) -> Option<Holding> {
        if self.holdings.is_empty() {
            return None;
        }
        let index = choices.below(self.holdings.len());
        let holding = self.holdings.swap_remove(index);
        holding.assert_intact(holding.size);
        Some(holding)
    }

    /// Allocates pages, unless tags, addresses or pages are missing.
    pub(crate) fn allocate(
        tenant: &RefCell<Self>,
        arena: &PageArena<'_>,
        choices: &mut impl Choices,
    ) {
        let most = choices.pick(&[1, 1, 2, 3, 3, 4, 8, 24]);
        let pages = 1 + choices.below(most);
        let align = PAGE << choices.pick(&[0, 0, 0, 0, 0, 1, 2, 4]);
        let layout = Layout::from_size_align(pages * PAGE, align).unwrap();
        let policy = choices.pick(&[InstantFit, BestFit, NextFit]);
        // The tenant is not borrowed during the call, which may be interrupted.
        if let Ok(base) = arena.xalloc(layout, policy) {
            assert!(base % align == 0);
            tenant.borrow_mut().enter(base, pages * PAGE);
        }
    }

    /// Frees one of the holdings, if there is any.
    pub(crate) fn free(tenant: &RefCell<Self>, arena: &PageArena<'_>, choices: &mut impl Choices) {
        let taken = tenant.borrow_mut().take_out(choices);
        if let Some(holding) = taken {
            tell(format_args!("another user frees {:#x}", holding.base));
            arena.free_sized(holding.base, holding.size).unwrap();
        }
    }

    /// Resizes one of the holdings, if there is any.
    pub(crate) fn resize(
        tenant: &RefCell<Self>,
        arena: &PageArena<'_>,
        choices: &mut impl Choices,
    ) {
        let taken = tenant.borrow_mut().take_out(choices);
        let Some(holding) = taken else { return };
        let size = (1 + choices.below(2 * holding.size / PAGE)) * PAGE;
        Self::resize_to(tenant, arena, holding, size);
    }

    /// Shrinks many of the holdings by a page. Each shrink may need a tag.
    pub(crate) fn shrink_all(
        tenant: &RefCell<Self>,
        arena: &PageArena<'_>,
        choices: &mut impl Choices,
    ) {
        let count = tenant.borrow().holdings.len();
        for _ in 0..2 * count {
            let taken = tenant.borrow_mut().take_out(choices);
            let Some(holding) = taken else { return };
            let size = (holding.size - PAGE).max(PAGE);
            Self::resize_to(tenant, arena, holding, size);
        }
    }

    fn resize_to(tenant: &RefCell<Self>, arena: &PageArena<'_>, mut holding: Holding, size: usize) {
        let before = holding.size;
        match arena.resize(holding.base, size) {
            Ok(()) => holding.size = size,
            Err(error) => assert!(
                size > before || error == Error::AllocatorError,
                "shrinking to {size:#x}: {error}"
            ),
        }
        tell(format_args!(
            "another user has {:#x} at {:#x}, and had {before:#x}",
            holding.size, holding.base
        ));
        holding.assert_intact(before.min(holding.size));
        holding.fill(before.min(holding.size));
        tenant.borrow_mut().holdings.push(holding);
    }
}
