//! A doubly linked list of groups, linked by their numbers.

use super::group::{Group, NONE};

/// The first group of a list; the rest is linked in the groups themselves. A group is in at most
/// one list.
#[derive(Debug)]
pub(super) struct List {
    head: u32,
}

impl List {
    pub const EMPTY: Self = Self { head: NONE };

    pub fn first(&self) -> Option<usize> {
        (self.head != NONE).then_some(self.head as usize)
    }

    pub fn push(&mut self, table: &mut [Group], index: usize) {
        let number = index as u32;
        if let Some(first) = self.first() {
            table[first].previous = number;
        }
        table[index].next = self.head;
        table[index].previous = NONE;
        self.head = number;
    }

    pub fn remove(&mut self, table: &mut [Group], index: usize) {
        let Group { next, previous, .. } = table[index];
        match table.get_mut(previous as usize) {
            Some(group) => group.next = next,
            None => self.head = next,
        }
        if let Some(group) = table.get_mut(next as usize) {
            group.previous = previous;
        }
    }
}
