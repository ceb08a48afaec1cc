//! Text on the screen: all that the kernel prints, besides the records for the host.
//!
//! Drawing a line takes long, and scrolling longer. So [`print!`](crate::print) puts its text into
//! a queue, under the lock of the serial port, and draws it after that lock is free, with
//! interrupts enabled:
//!
//! ```text
//! print! ── lock ──> serial port        (the caller, or an interrupt handler's end)
//!               └──> queue ──────────── draw ──> grid of characters ──> Framebuffer
//! ```
//!
//! Only one piece of code draws at a time, and none waits for it: text that is printed meanwhile
//! goes into the queue, and the code that draws finds it there. Text that is printed while
//! interrupts are masked is drawn later: by the next `print!`, or after an interrupt. If the queue
//! becomes full, its text is drawn at once. Of a single `print!` with more than 4,096 bytes, the
//! screen shows the end.
//!
//! Of the control sequences of terminals, those for colours and `ESC [ K` (clears the rest of the
//! line) have an effect.
//!
//! A crash takes no lock. It writes white on red below the text.

mod queue;

use core::fmt::{self, Write};
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use embedded_graphics_core::pixelcolor::RgbColor;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use spin::{Mutex, Once};

use crate::framebuffer::{Framebuffer, Rgb888};
use crate::interrupts;
use crate::sync::InterruptMutex;
use queue::Queue;

/// The height of a character in pixels.
const HEIGHT: usize = RasterHeight::Size16.val();
/// The width of a character in pixels.
const WIDTH: usize = get_raster_width(FontWeight::Regular, RasterHeight::Size16);
/// The most columns and rows. A larger screen is not used further to the right or below.
const MAX_COLUMNS: usize = 320;
const MAX_ROWS: usize = 160;

const TEXT: Colors = on_black(Rgb888::new(0xd0, 0xd0, 0xd0));
/// The colours of the parameters 30 to 37 in `ESC [ … m`.
const PALETTE: [Colors; 8] = [
    on_black(Rgb888::new(0x70, 0x70, 0x70)),
    on_black(Rgb888::new(0xf0, 0x50, 0x50)),
    on_black(Rgb888::new(0x50, 0xd0, 0x50)),
    on_black(Rgb888::new(0xe0, 0xc0, 0x40)),
    on_black(Rgb888::new(0x60, 0x90, 0xf0)),
    on_black(Rgb888::new(0xd0, 0x60, 0xd0)),
    on_black(Rgb888::new(0x40, 0xc0, 0xd0)),
    TEXT,
];
const CRASH: Colors = Colors {
    ink: Rgb888::new(0xff, 0xff, 0xff),
    paper: Rgb888::new(0x90, 0x10, 0x10),
};

/// The screen. Crashes write to it without the lock of the console.
static SCREEN: Once<Framebuffer> = Once::new();
static CONSOLE: Mutex<Console> = Mutex::new(Console::new());
/// The text that is not drawn yet.
static QUEUE: InterruptMutex<Queue> = InterruptMutex::new(Queue::new());
/// The row that a crash writes to next, counted from the top of the screen.
static CRASH_ROW: AtomicUsize = AtomicUsize::new(0);
/// Whether interrupts were never enabled so far, so that drawing delays none.
static IS_BOOTING: AtomicBool = AtomicBool::new(true);

/// Returns the screen, if the firmware has one that the bootloader could set up.
pub fn framebuffer() -> Option<Framebuffer> {
    SCREEN.get().copied()
}

/// Leaves the upper `height` pixels of the screen to pictures: clears the screen, and continues
/// with text below them. With the height of the screen, no more text is drawn.
///
/// Has no effect on a machine without a screen, nor inside an interrupt handler that interrupted
/// the drawing of text.
pub fn set_top(height: usize) {
    if let (Some(screen), Some(mut console)) = (framebuffer(), CONSOLE.try_lock()) {
        console.start(&screen, height);
    }
}

/// Makes the console write to `screen`.
pub(crate) fn init(screen: Framebuffer) {
    SCREEN.call_once(|| screen);
    set_top(0);
}

/// Notes that interrupts are enabled from now on: text that is printed while they are masked waits.
pub(crate) fn end_boot() {
    IS_BOOTING.store(false, Relaxed);
}

/// Adds text to the queue, if there is a screen.
pub(crate) fn enqueue(text: &str) {
    if SCREEN.get().is_some() {
        QUEUE.lock().push(text.as_bytes());
    }
}

/// Draws the text in the queue, unless interrupts are masked and the queue has room.
pub(crate) fn draw() {
    if interrupts::enabled() || IS_BOOTING.load(Relaxed) || is_queue(Queue::is_almost_full) {
        draw_all();
    }
}

/// Draws the text in the queue. If other code draws already, it will find the text.
pub(crate) fn draw_all() {
    draw_by(Console::write_queued);
}

/// Draws what interrupt handlers have printed, with interrupts enabled. The handler of an interrupt
/// calls this function at its end. Other interrupts may come meanwhile, and draw nothing.
#[cfg(target_os = "none")]
pub(crate) fn draw_after_interrupt() {
    draw_by(|console, screen| {
        x86_64::instructions::interrupts::enable();
        console.write_queued(screen);
        x86_64::instructions::interrupts::disable();
    });
}

/// Calls `work` with the console until the queue is empty, or other code has the console.
fn draw_by(work: impl Fn(&mut Console, &Framebuffer)) {
    let Some(screen) = SCREEN.get() else { return };
    // Text that came between the last look into the queue and the unlocking is drawn too.
    while is_queue(|queue| !queue.is_empty()) {
        let Some(mut console) = CONSOLE.try_lock() else {
            return;
        };
        work(&mut console, screen);
    }
}

/// Returns whether the queue is as `test` says. Not if code that this interrupts has locked it.
fn is_queue(test: impl FnOnce(&Queue) -> bool) -> bool {
    QUEUE.try_lock().is_some_and(|queue| test(&queue))
}

/// Writes the text of a crash below the text of the console. Takes no lock.
pub(crate) fn print_unlocked(arguments: fmt::Arguments) {
    let Some(screen) = SCREEN.get() else { return };
    // An error cannot come from the screen.
    let _ = CrashWriter(screen).write_fmt(arguments);
}

/// The colours of text.
#[derive(Clone, Copy)]
struct Colors {
    ink: Rgb888,
    paper: Rgb888,
}

const fn on_black(ink: Rgb888) -> Colors {
    Colors {
        ink,
        paper: Rgb888::new(0, 0, 0),
    }
}

/// A character on the screen. Cells that look the same are equal.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cell {
    /// 0 for an empty cell.
    character: u8,
    /// An index of the [`PALETTE`].
    color: u8,
}

impl Cell {
    const EMPTY: Self = Self {
        character: 0,
        color: 0,
    };

    fn of(character: u8, color: u8) -> Self {
        match character {
            b' ' => Self::EMPTY,
            _ => Self { character, color },
        }
    }
}

/// The text of the screen, and the place of the next character.
struct Console {
    /// The height of the area above, in pixels.
    top: usize,
    columns: usize,
    rows: usize,
    column: usize,
    row: usize,
    sequence: Sequence,
    /// The colour of the next character: an index of the [`PALETTE`].
    color: u8,
    cells: [[Cell; MAX_COLUMNS]; MAX_ROWS],
}

/// The index of [`TEXT`] in the [`PALETTE`].
const TEXT_COLOR: u8 = 7;

/// How much of a control sequence of a terminal, such as `ESC [ 31 m`, was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sequence {
    None,
    Escape,
    /// The last parameter so far.
    Parameters(u8),
    /// After a parameter for colours that the [`PALETTE`] lacks: others belong to it.
    Ignored,
}

impl Console {
    const fn new() -> Self {
        Self {
            top: 0,
            columns: 0,
            rows: 0,
            column: 0,
            row: 0,
            sequence: Sequence::None,
            color: TEXT_COLOR,
            cells: [[Cell::EMPTY; MAX_COLUMNS]; MAX_ROWS],
        }
    }

    /// Clears `screen`, and begins at `top`.
    fn start(&mut self, screen: &Framebuffer, top: usize) {
        let info = screen.info();
        self.top = top;
        self.columns = (info.width / WIDTH).min(MAX_COLUMNS);
        self.rows = (info.height.saturating_sub(top) / HEIGHT).min(MAX_ROWS);
        (self.column, self.row) = (0, 0);
        for row in &mut self.cells {
            row.fill(Cell::EMPTY);
        }
        screen.fill(0..info.width, 0..info.height, TEXT.paper);
        self.note_row();
    }

    /// Writes the text in the queue.
    fn write_queued(&mut self, screen: &Framebuffer) {
        let mut text = [0; 64];
        loop {
            // The queue is not locked while its text is drawn.
            let part = QUEUE.try_lock().and_then(|mut queue| queue.pop(&mut text));
            let Some(part) = part else { return };
            self.write(screen, part);
        }
    }

    /// Writes text, with the control sequences of terminals in it.
    fn write(&mut self, screen: &Framebuffer, text: &[u8]) {
        if self.rows == 0 || self.columns == 0 {
            return;
        }
        for &byte in text {
            match (self.sequence, byte) {
                (_, 0x1b) => self.sequence = Sequence::Escape,
                (Sequence::None, b'\n') => self.break_line(screen),
                (Sequence::None, b'\r') => self.column = 0,
                (Sequence::None, 0x08) => self.column = self.column.saturating_sub(1),
                (Sequence::None, b'\t') => {
                    for _ in 0..8 - self.column % 8 {
                        self.put(screen, b' ');
                    }
                }
                (Sequence::None, 0x07) => {}
                // The first byte of a character of several bytes stands for the others.
                (Sequence::None, 0x80..0xc0) => {}
                (Sequence::None, byte) => self.put(screen, byte),
                (Sequence::Escape, b'[') => self.sequence = Sequence::Parameters(0),
                (Sequence::Escape, _) | (Sequence::Ignored, 0x40..) => {
                    self.sequence = Sequence::None;
                }
                (Sequence::Ignored, _) => {}
                (Sequence::Parameters(number), _) => {
                    self.sequence = self.continue_sequence(screen, number, byte);
                }
            }
        }
    }

    /// Takes a byte of a sequence, whose last parameter so far is `number`.
    fn continue_sequence(&mut self, screen: &Framebuffer, number: u8, byte: u8) -> Sequence {
        match byte {
            b'0'..=b'9' => {
                let number = number.saturating_mul(10).saturating_add(byte - b'0');
                return Sequence::Parameters(number);
            }
            b';' if matches!(number, 38 | 48) => return Sequence::Ignored,
            b';' | b'm' => {
                match number {
                    0 | 39 => self.color = TEXT_COLOR,
                    30..=37 => self.color = number - 30,
                    90..=97 => self.color = number - 90,
                    _ => {}
                }
                if byte == b';' {
                    return Sequence::Parameters(0);
                }
            }
            b'K' if number == 0 => {
                for column in self.column..self.columns {
                    self.set(screen, self.row, column, Cell::EMPTY);
                }
            }
            0x40.. => {}
            _ => return Sequence::Parameters(number),
        }
        Sequence::None
    }

    /// Writes a character that is not a line break.
    fn put(&mut self, screen: &Framebuffer, character: u8) {
        if self.column == self.columns {
            self.break_line(screen);
        }
        self.set(
            screen,
            self.row,
            self.column,
            Cell::of(character, self.color),
        );
        self.column += 1;
    }

    /// Continues at the next line. On the last one, scrolls by a quarter of the screen: drawing it
    /// takes long.
    fn break_line(&mut self, screen: &Framebuffer) {
        self.column = 0;
        self.row += 1;
        if self.row == self.rows {
            let count = (self.rows / 4).max(1);
            for row in 0..self.rows {
                for column in 0..self.columns {
                    let below = self.cells.get(row + count);
                    let cell = below.map_or(Cell::EMPTY, |below| below[column]);
                    self.set(screen, row, column, cell);
                }
            }
            self.row -= count;
        }
        self.note_row();
    }

    /// Sets a cell, and draws it unless it looks like that already.
    fn set(&mut self, screen: &Framebuffer, row: usize, column: usize, cell: Cell) {
        if mem::replace(&mut self.cells[row][column], cell) != cell {
            draw_character(
                screen,
                column * WIDTH,
                self.top + row * HEIGHT,
                cell.character,
                PALETTE[usize::from(cell.color)],
            );
        }
    }

    /// Notes the row below the text for a crash.
    fn note_row(&self) {
        CRASH_ROW.store(self.top.div_ceil(HEIGHT) + self.row + 1, Relaxed);
    }
}

/// Draws a character, with its upper left corner at (`x`, `y`). 0 is an empty cell.
fn draw_character(screen: &Framebuffer, x: usize, y: usize, character: u8, colors: Colors) {
    let glyph = match character {
        0 | b' ' => None,
        b'!'..=b'~' => get_raster(character.into(), FontWeight::Regular, RasterHeight::Size16),
        _ => get_raster('?', FontWeight::Regular, RasterHeight::Size16),
    };
    let Some(glyph) = glyph else {
        screen.fill(x..x + WIDTH, y..y + HEIGHT, colors.paper);
        return;
    };
    for (row, pixels) in glyph.rows().enumerate() {
        for (column, &coverage) in pixels.iter().enumerate() {
            screen.set(x + column, y + row, colors.blend(coverage));
        }
    }
}

impl Colors {
    /// Returns the colour of a pixel of which ink covers `coverage` of 255 parts.
    fn blend(self, coverage: u8) -> Rgb888 {
        let mix = |ink: u8, paper: u8| {
            let (ink, paper, coverage) = (u32::from(ink), u32::from(paper), u32::from(coverage));
            ((ink * coverage + paper * (255 - coverage)) / 255) as u8
        };
        let (ink, paper) = (self.ink, self.paper);
        match coverage {
            0 => paper,
            255 => ink,
            _ => Rgb888::new(
                mix(ink.r(), paper.r()),
                mix(ink.g(), paper.g()),
                mix(ink.b(), paper.b()),
            ),
        }
    }
}

/// Writes the text of a crash. Its place is in [`CRASH_ROW`], with the column in [`CRASH_COLUMN`].
struct CrashWriter<'a>(&'a Framebuffer);

/// The column that a crash writes to next.
static CRASH_COLUMN: AtomicUsize = AtomicUsize::new(0);

impl Write for CrashWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let info = self.0.info();
        let (columns, rows) = (info.width / WIDTH, info.height / HEIGHT);
        if columns == 0 || rows == 0 {
            return Ok(());
        }
        let (mut column, mut row) = (CRASH_COLUMN.load(Relaxed), CRASH_ROW.load(Relaxed));
        for character in text.chars() {
            if character == '\n' || column == columns {
                (column, row) = (0, row + 1);
            }
            if row >= rows {
                row = 0;
            }
            if character == '\n' {
                continue;
            }
            let y = row * HEIGHT;
            if column == 0 {
                self.0.fill(0..info.width, y..y + HEIGHT, CRASH.paper);
            }
            let byte = u8::try_from(character).unwrap_or(b'?');
            draw_character(self.0, column * WIDTH, y, byte, CRASH);
            column += 1;
        }
        CRASH_COLUMN.store(column, Relaxed);
        CRASH_ROW.store(row, Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
