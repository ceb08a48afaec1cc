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

use core::fmt::{self, Write};
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use embedded_graphics_core::pixelcolor::RgbColor;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use spin::{Mutex, Once};

use crate::framebuffer::{Framebuffer, Rgb888};
use crate::interrupts;
use crate::sync::InterruptMutex;

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
                    let below = self
                        .cells
                        .get(row + count)
                        .filter(|_| row + count < self.rows);
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

/// Text that waits to be drawn.
struct Queue {
    bytes: [u8; Queue::SIZE],
    /// The index of the oldest byte.
    first: usize,
    length: usize,
}

impl Queue {
    /// The size in bytes: some lines, because drawing begins after each.
    const SIZE: usize = 4096;

    const fn new() -> Self {
        Self {
            bytes: [0; Self::SIZE],
            first: 0,
            length: 0,
        }
    }

    /// Adds text. If it does not fit, the oldest text is dropped.
    fn push(&mut self, text: &[u8]) {
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
    fn pop<'a>(&mut self, text: &'a mut [u8]) -> Option<&'a [u8]> {
        let count = self.length.min(text.len());
        for byte in &mut text[..count] {
            *byte = self.bytes[self.first];
            self.first = (self.first + 1) % Self::SIZE;
        }
        self.length -= count;
        (count > 0).then_some(&text[..count])
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns whether less than half of the queue is left.
    fn is_almost_full(&self) -> bool {
        self.length > Self::SIZE / 2
    }
}

#[cfg(test)]
mod tests {
    use core::ops::{Deref, DerefMut};
    use std::boxed::Box;
    use std::string::String;

    use bootloader_api::info::PixelFormat;
    use spin::MutexGuard;

    use super::*;
    use crate::framebuffer::tests::screen;

    /// A console. Tests take turns to have one, because all consoles write [`CRASH_ROW`].
    struct TestConsole {
        console: Box<Console>,
        _turn: MutexGuard<'static, ()>,
    }

    impl Deref for TestConsole {
        type Target = Console;

        fn deref(&self) -> &Console {
            &self.console
        }
    }

    impl DerefMut for TestConsole {
        fn deref_mut(&mut self) -> &mut Console {
            &mut self.console
        }
    }

    /// Returns a console of `columns` and `rows` on a screen that is a little larger.
    fn console(columns: usize, rows: usize) -> (Framebuffer, TestConsole) {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock();
        let screen = screen(
            columns * WIDTH + WIDTH - 1,
            rows * HEIGHT + HEIGHT - 1,
            PixelFormat::Rgb,
        );
        let mut console = Box::new(Console::new());
        console.start(&screen, 0);
        let console = TestConsole {
            console,
            _turn: turn,
        };
        (screen, console)
    }

    /// Returns the characters of a row.
    fn row(console: &Console, row: usize) -> String {
        let cells = &console.cells[row][..console.columns];
        let character = |cell: &Cell| match cell.character {
            0 => ' ',
            character => char::from(character),
        };
        String::from(cells.iter().map(character).collect::<String>().trim_end())
    }

    /// Returns whether a cell has a pixel that is not black.
    fn is_drawn(screen: &Framebuffer, row: usize, column: usize) -> bool {
        (0..HEIGHT).any(|y| {
            (0..WIDTH).any(|x| screen.pixel(column * WIDTH + x, row * HEIGHT + y) != [0; 4])
        })
    }

    #[test]
    fn each_character_is_drawn_in_its_cell() {
        let (screen, mut console) = console(5, 3);
        console.write(&screen, b"ab c\n\xc3\xa9");
        assert_eq!(row(&console, 0), "ab c");
        let drawn = [0, 1, 2, 3, 4].map(|column| is_drawn(&screen, 0, column));
        assert_eq!(drawn, [true, true, false, true, false]);
        // Other characters than those of ASCII have one sign for all.
        assert!(is_drawn(&screen, 1, 0) && !is_drawn(&screen, 1, 1));
    }

    #[test]
    fn lines_are_broken_at_the_right_edge() {
        let (screen, mut console) = console(4, 3);
        console.write(&screen, b"abcdef\rX");
        assert_eq!(row(&console, 0), "abcd");
        assert_eq!(row(&console, 1), "Xf");
    }

    #[test]
    fn a_tabulator_leads_to_a_multiple_of_eight() {
        let (screen, mut console) = console(20, 2);
        console.write(&screen, b"\ta\tb");
        assert_eq!(row(&console, 0), "        a       b");
    }

    #[test]
    fn the_last_line_scrolls_by_a_quarter() {
        let (screen, mut console) = console(3, 8);
        console.write(&screen, b"0\n1\n2\n3\n4\n5\n6\n7");
        assert_eq!(row(&console, 7), "7");
        console.write(&screen, b"\n8");
        let rows = [0, 1, 2, 3, 4, 5, 6, 7].map(|index| row(&console, index));
        assert_eq!(rows, ["2", "3", "4", "5", "6", "7", "8", ""]);
        assert!(is_drawn(&screen, 6, 0) && !is_drawn(&screen, 7, 0));
    }

    #[test]
    fn a_low_screen_scrolls_by_one_line() {
        for rows in 1..=3 {
            let (screen, mut console) = console(3, rows);
            console.write(&screen, &b"0\n1\n2\n3"[..2 * rows + 1]);
            for index in 0..rows {
                let expected = std::format!("{}", index + 1);
                assert_eq!(row(&console, index), expected, "{rows} rows");
            }
        }
    }

    #[test]
    fn a_start_clears_the_screen_and_the_text() {
        let (screen, mut console) = console(4, 4);
        console.write(&screen, b"M\nM\nM\nM");
        let info = screen.info();
        screen.fill(0..info.width, 0..info.height, CRASH.paper);
        console.start(&screen, 2 * HEIGHT);
        let mut pixels = (0..info.height).flat_map(|y| (0..info.width).map(move |x| (x, y)));
        assert!(pixels.all(|(x, y)| screen.pixel(x, y) == [0; 4]));
        // The text that was there does not come back, and the same text is drawn again.
        console.write(&screen, b"M\n\n");
        assert_eq!([row(&console, 0), row(&console, 1)], ["", ""]);
        console.write(&screen, b"M");
        assert!(is_drawn(&screen, 3, 0));
    }

    #[test]
    fn control_sequences_are_not_shown() {
        let (screen, mut console) = console(8, 2);
        console.write(&screen, b"\x1b[1;31ma\x1b[0m\x1b(b\x08c");
        assert_eq!(row(&console, 0), "ac");
        // A sequence of an operating system, and one that does not end.
        console.write(&screen, b"\n\x07\x1b[?25hd\x1b[999999999999Je\x1b[");
        assert_eq!(row(&console, 1), "de");
        // A new sequence ends one that is not complete.
        console.write(&screen, b"\x1b[1\x1b[32mf");
        assert_eq!(row(&console, 1), "def");
    }

    #[test]
    fn sequences_choose_the_colour_of_the_ink() {
        let (screen, mut console) = console(8, 2);
        console.write(
            &screen,
            b"a\x1b[1;31mb\x1b[32mc d\x1b[39;1me\x1b[92mf\x1b[mg",
        );
        let colors: [u8; 8] = core::array::from_fn(|column| console.cells[0][column].color);
        assert_eq!(colors, [7, 1, 2, 0, 2, 7, 2, 7]);
        console.write(&screen, b"\r\x1b[38;5;31;33mh\x1b[48;2;32;0;0mi");
        assert_eq!(
            [console.cells[0][0].color, console.cells[0][1].color],
            [7, 7]
        );
        console.write(&screen, b"\ra\x1b[31mb");
        // Some pixel of the ink is fully covered.
        let ink = PALETTE[1].ink;
        let is_red = |x, y| screen.pixel(x, y) == [ink.r(), ink.g(), ink.b(), 0];
        assert!((0..HEIGHT).any(|y| (WIDTH..2 * WIDTH).any(|x| is_red(x, y))));
        // The same character in another colour is drawn again.
        console.write(&screen, b"\ra\x1b[32mb");
        assert!(!(0..HEIGHT).any(|y| (WIDTH..2 * WIDTH).any(|x| is_red(x, y))));
    }

    #[test]
    fn the_rest_of_a_line_is_cleared() {
        let (screen, mut console) = console(8, 2);
        console.write(&screen, b"abcdef\r>\x1b[K\nabc\x1b[1K\r\x1b[2K");
        assert_eq!(
            (row(&console, 0), row(&console, 1)),
            (">".into(), "abc".into())
        );
        assert!(is_drawn(&screen, 0, 0) && !is_drawn(&screen, 0, 1));
    }

    #[test]
    fn text_leaves_the_top_of_the_screen_alone() {
        let (screen, mut console) = console(4, 4);
        console.start(&screen, HEIGHT + 1);
        assert_eq!(console.rows, 3);
        console.write(&screen, b"M\nM\nM\nM\nM");
        let top = (0..=HEIGHT).flat_map(|y| (0..4 * WIDTH).map(move |x| (x, y)));
        assert!(top.into_iter().all(|(x, y)| screen.pixel(x, y) == [0; 4]));
        // Without room, no text is drawn.
        console.start(&screen, usize::MAX);
        console.write(&screen, b"M");
        assert!(!is_drawn(&screen, 0, 0));
    }

    #[test]
    fn a_crash_writes_on_red_below_the_text() {
        let (screen, _console) = console(4, 3);
        CRASH_ROW.store(2, Relaxed);
        CRASH_COLUMN.store(0, Relaxed);
        CrashWriter(&screen).write_str("abcdefgh\ni").unwrap();
        let red = [CRASH.paper.r(), CRASH.paper.g(), CRASH.paper.b(), 0];
        // After the last row comes the first.
        for row in 0..3 {
            assert_eq!(screen.pixel(4 * WIDTH, row * HEIGHT), red, "{row}");
        }
        assert_eq!(
            (CRASH_ROW.load(Relaxed), CRASH_COLUMN.load(Relaxed)),
            (1, 1)
        );
    }

    #[test]
    fn a_crash_finds_the_row_below_the_text() {
        let (screen, mut console) = console(3, 8);
        assert_eq!(CRASH_ROW.load(Relaxed), 1);
        console.write(&screen, b"0\n1\n2\n3\n4\n5\n6\n7");
        assert_eq!(CRASH_ROW.load(Relaxed), 8);
        // The text moves up by two rows, and has one more.
        console.write(&screen, b"\n8");
        assert_eq!(CRASH_ROW.load(Relaxed), 7);
        console.start(&screen, HEIGHT + 1);
        assert_eq!(CRASH_ROW.load(Relaxed), 3);
    }

    #[test]
    fn the_queue_is_almost_full_with_less_than_half_left() {
        let mut queue = Queue::new();
        queue.push(&[b'x'; Queue::SIZE / 2]);
        assert!(!queue.is_almost_full());
        queue.push(b"x");
        assert!(queue.is_almost_full());
    }

    #[test]
    fn the_queue_keeps_the_newest_text_in_order() {
        let mut queue = Queue::new();
        let mut text = [0; 4];
        assert!(queue.pop(&mut text).is_none() && queue.is_empty());
        queue.push(b"abcdef");
        assert_eq!(queue.pop(&mut text), Some(&b"abcd"[..]));
        assert_eq!(queue.pop(&mut text), Some(&b"ef"[..]));
        assert!(!queue.is_almost_full());
        queue.push(&[b'x'; Queue::SIZE]);
        assert!(queue.is_almost_full());
        queue.push(b"yz");
        let mut all = [0; Queue::SIZE + 1];
        let kept = queue.pop(&mut all).unwrap();
        assert_eq!(kept.len(), Queue::SIZE);
        assert!(kept.starts_with(b"xx") && kept.ends_with(b"xyz"));
        assert!(queue.is_empty());
    }
}
