//! The picture at the top of the screen.

use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::FONT_10X20;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{Circle, PrimitiveStyle};
use embedded_graphics::text::Text;
use kernel::console;
use kernel::framebuffer::{Framebuffer, Rgb888};

/// The height of the picture in pixels.
const HEIGHT: u32 = 80;

/// Draws the picture. Text begins below it.
pub fn draw(screen: &mut Framebuffer) {
    console::set_top(HEIGHT as usize);
    let blue = Rgb888::new(80, 140, 255);
    let white = Rgb888::new(255, 255, 255);
    let circle = Circle::new(Point::new(10, 10), HEIGHT - 20);
    let Ok(()) = circle
        .into_styled(PrimitiveStyle::with_fill(blue))
        .draw(screen);
    let style = MonoTextStyle::new(&FONT_10X20, white);
    let Ok(_) = Text::new("my-kernel", Point::new(90, 46), style).draw(screen);
}
