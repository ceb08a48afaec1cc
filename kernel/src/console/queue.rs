//! The queue between printing and drawing.

/// Text that waits to be drawn.
pub(super) struct Queue {
    bytes: [u8; Queue::SIZE],
    /// The index of the oldest byte.
    first: usize,
    length: usize,
}

impl Queue {
    /// The size in bytes: some lines, because drawing begins after each.
    pub(super) const SIZE: usize = 4096;

    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; Self::SIZE],
            first: 0,
            length: 0,
        }
    }

    /// Adds text. If it does not fit, the oldest text is dropped.
    pub(super) fn push(&mut self, text: &[u8]) {
        for &byte in text {
            self.bytes[(self.first + self.length) % Self::SIZE] = byte;
            if self.length == Self::SIZE {
                self.first = (self.first + 1) % Self::SIZE;
            } else {
                self.length += 1;
            }
        }
    }

    /// Removes the oldest text, as much as fits into `text`. `None` if the queue is empty.
    pub(super) fn pop<'a>(&mut self, text: &'a mut [u8]) -> Option<&'a [u8]> {
        let count = self.length.min(text.len());
        for byte in &mut text[..count] {
            *byte = self.bytes[self.first];
            self.first = (self.first + 1) % Self::SIZE;
        }
        self.length -= count;
        (count > 0).then_some(&text[..count])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns whether less than half of the queue is left.
    pub(super) fn is_almost_full(&self) -> bool {
        self.length > Self::SIZE / 2
    }
}
