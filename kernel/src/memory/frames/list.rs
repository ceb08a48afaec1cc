//! A doubly linked list of groups, which are linked by their indices.

use super::group::{Group, NONE};

/// The head of a list. The links are in the groups themselves: a group is in at most one list.
#[derive(Debug)]
pub(super) struct List {
    head: u32,
}

impl List {
    /// A list without groups.
    pub(crate) const EMPTY: Self = Self { head: NONE };

    /// Returns the index of the first group.
    pub(crate) fn first(&self) -> Option<usize> {
        (self.head != NONE).then_some(self.head as usize)
    }

    /// Inserts a group, which is in no list, at the front.
    pub(crate) fn push(&mut self, table: &mut [Group], index: usize) {
        let number = index as u32;
        if let Some(first) = self.first() {
            table[first].previous = number;
        }
        table[index].next = self.head;
        table[index].previous = NONE;
        self.head = number;
    }

    /// Removes a group, which is in this list.
    pub(crate) fn remove(&mut self, table: &mut [Group], index: usize) {
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
