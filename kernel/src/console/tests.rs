//! What the screen shows.

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
    (0..HEIGHT)
        .any(|y| (0..WIDTH).any(|x| screen.pixel(column * WIDTH + x, row * HEIGHT + y) != [0; 4]))
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
