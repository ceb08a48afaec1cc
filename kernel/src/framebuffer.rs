//! The screen, as an array of pixels: the framebuffer that the bootloader has set up.
//!
//! [`Framebuffer`] is a `DrawTarget` of the crate `embedded-graphics`: text, shapes and pictures of
//! that crate and of those that build on it can be drawn.

use core::convert::Infallible;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

use bootloader_api::info::{FrameBufferInfo, PixelFormat};
use embedded_graphics_core::geometry::OriginDimensions;
use embedded_graphics_core::prelude::{DrawTarget, GrayColor, Pixel, RgbColor, Size};
use embedded_graphics_core::primitives::Rectangle;

pub use embedded_graphics_core::pixelcolor::Rgb888;

/// A handle to the pixels of the screen. Its copies lead to the same pixels.
///
/// Each pixel is written atomically, so that an interrupt handler may draw while other code does.
/// Pixels outside of the screen are ignored.
#[derive(Debug, Clone, Copy)]
pub struct Framebuffer {
    /// The first of `info.byte_len` bytes that only handles to this framebuffer access.
    first: NonNull<u8>,
    /// `height * stride * bytes_per_pixel` is at most `byte_len`, and `width` at most `stride`.
    info: FrameBufferInfo,
}

// SAFETY: all accesses to the pixels are atomic.
unsafe impl Send for Framebuffer {}
// SAFETY: all accesses to the pixels are atomic.
unsafe impl Sync for Framebuffer {}

impl Framebuffer {
    /// Creates a handle to the pixels in `bytes`. `None` if `info` does not describe them.
    pub fn new(bytes: &'static mut [u8], info: FrameBufferInfo) -> Option<Self> {
        let size = info
            .height
            .checked_mul(info.stride)?
            .checked_mul(info.bytes_per_pixel)?;
        let fits = size <= bytes.len() && info.width <= info.stride && info.bytes_per_pixel > 0;
        fits.then_some(Self {
            first: NonNull::from(bytes).cast(),
            info,
        })
    }

    /// Returns the size and the format of the pixels.
    pub fn info(&self) -> FrameBufferInfo {
        self.info
    }

    /// Sets the pixel at (`x`, `y`). (0, 0) is at the left of the top.
    pub fn set(&self, x: usize, y: usize, color: Rgb888) {
        self.fill(x..x.saturating_add(1), y..y.saturating_add(1), color);
    }

    /// Sets all pixels of a rectangle.
    pub fn fill(&self, x: Range<usize>, y: Range<usize>, color: Rgb888) {
        let bytes = self.encode(color);
        for y in y.start..y.end.min(self.info.height) {
            for x in x.start..x.end.min(self.info.width) {
                self.store(x, y, bytes);
            }
        }
    }

    /// Returns the bytes of a pixel in the format of the screen.
    fn encode(&self, color: Rgb888) -> [u8; 4] {
        let (red, green, blue) = (color.r(), color.g(), color.b());
        match self.info.pixel_format {
            PixelFormat::Rgb => [red, green, blue, 0],
            PixelFormat::U8 => {
                let gray = embedded_graphics_core::pixelcolor::Gray8::from(color);
                [gray.luma(), 0, 0, 0]
            }
            PixelFormat::Unknown {
                red_position,
                green_position,
                blue_position,
            } => [
                (red, red_position),
                (green, green_position),
                (blue, blue_position),
            ]
            .into_iter()
            .map(|(value, position)| u32::from(value).checked_shl(position.into()).unwrap_or(0))
            .fold(0, |all, bits| all | bits)
            .to_le_bytes(),
            // All other screens are those of PCs: blue comes first.
            _ => [blue, green, red, 0],
        }
    }

    /// Writes a pixel. `x` is less than the width, and `y` than the height.
    fn store(&self, x: usize, y: usize, bytes: [u8; 4]) {
        let size = self.info.bytes_per_pixel;
        let offset = (y * self.info.stride + x) * size;
        // SAFETY: the offset is less than `height * stride * bytes_per_pixel`, which the buffer
        // contains.
        let pixel = unsafe { self.first.add(offset) };
        let word = pixel.cast::<AtomicU32>();
        if size == 4 && word.is_aligned() {
            // Builds with assertions check the alignment here, which they do not in `as_ref`.
            // SAFETY: the word is aligned. Its four bytes are in the buffer, which only handles
            // access.
            let word = unsafe { &*word.as_ptr() };
            word.store(u32::from_ne_bytes(bytes), Relaxed);
            return;
        }
        for (index, &byte) in bytes.iter().enumerate().take(size) {
            // SAFETY: the pixel has `size` bytes.
            let slot = unsafe { pixel.add(index) };
            // SAFETY: the byte is in the buffer, which only handles access.
            unsafe { slot.cast::<AtomicU8>().as_ref() }.store(byte, Relaxed);
        }
    }
}

impl OriginDimensions for Framebuffer {
    fn size(&self) -> Size {
        let pixels = |count| u32::try_from(count).unwrap_or(u32::MAX);
        Size::new(pixels(self.info.width), pixels(self.info.height))
    }
}

impl DrawTarget for Framebuffer {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Infallible> {
        for Pixel(point, color) in pixels {
            if let (Ok(x), Ok(y)) = (usize::try_from(point.x), usize::try_from(point.y)) {
                self.set(x, y, color);
            }
        }
        Ok(())
    }

    fn fill_solid(&mut self, area: &Rectangle, color: Rgb888) -> Result<(), Infallible> {
        let end = |start: i32, length: u32| (i64::from(start) + i64::from(length)).max(0) as usize;
        let start = |start: i32| usize::try_from(start).unwrap_or(0);
        self.fill(
            start(area.top_left.x)..end(area.top_left.x, area.size.width),
            start(area.top_left.y)..end(area.top_left.y, area.size.height),
            color,
        );
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::vec;

    use embedded_graphics_core::prelude::Point;

    use super::*;

    /// Returns a screen in memory, and its first byte.
    pub(crate) fn screen(width: usize, height: usize, format: PixelFormat) -> Framebuffer {
        let bytes_per_pixel = 4;
        let stride = width + 3;
        let byte_len = height * stride * bytes_per_pixel;
        let info = FrameBufferInfo {
            byte_len,
            width,
            height,
            pixel_format: format,
            bytes_per_pixel,
            stride,
        };
        Framebuffer::new(vec![0; byte_len].leak(), info).unwrap()
    }

    impl Framebuffer {
        /// Returns the bytes of a pixel.
        pub(crate) fn pixel(&self, x: usize, y: usize) -> [u8; 4] {
            assert!(x < self.info.stride && y < self.info.height);
            let offset = (y * self.info.stride + x) * self.info.bytes_per_pixel;
            core::array::from_fn(|index| {
                let byte = self.first.as_ptr().wrapping_add(offset + index);
                // SAFETY: the pixel is in the buffer, and has four bytes.
                unsafe { byte.read() }
            })
        }
    }

    const ORANGE: Rgb888 = Rgb888::new(255, 128, 7);

    #[test]
    fn a_color_has_the_bytes_of_the_format() {
        let formats = [
            (PixelFormat::Rgb, [255, 128, 7, 0]),
            (PixelFormat::Bgr, [7, 128, 255, 0]),
            (
                PixelFormat::Unknown {
                    red_position: 8,
                    green_position: 16,
                    blue_position: 24,
                },
                [0, 255, 128, 7],
            ),
        ];
        for (format, bytes) in formats {
            let screen = screen(4, 2, format);
            screen.set(3, 1, ORANGE);
            assert_eq!(screen.pixel(3, 1), bytes);
            assert_eq!(screen.pixel(2, 1), [0; 4]);
        }
        let gray = screen(1, 1, PixelFormat::U8);
        gray.set(0, 0, ORANGE);
        assert!((140..170).contains(&gray.pixel(0, 0)[0]));
    }

    #[test]
    fn pixels_outside_of_the_screen_are_ignored() {
        let mut screen = screen(4, 2, PixelFormat::Rgb);
        screen.set(4, 0, ORANGE);
        screen.set(0, 2, ORANGE);
        screen.set(usize::MAX, usize::MAX, ORANGE);
        let left = Pixel(Point::new(-1, 0), ORANGE);
        screen.draw_iter([left]).unwrap();
        let area = Rectangle::new(Point::new(-5, -5), Size::new(4, 4));
        screen.fill_solid(&area, ORANGE).unwrap();
        for y in 0..2 {
            // The padding behind each line too.
            for x in 0..7 {
                assert_eq!(screen.pixel(x, y), [0; 4], "({x}, {y})");
            }
        }
        let area = Rectangle::new(Point::new(-1, 1), Size::new(2, 9));
        screen.fill_solid(&area, ORANGE).unwrap();
        assert_eq!(screen.pixel(0, 1), [255, 128, 7, 0]);
        assert_eq!(screen.pixel(1, 1), [0; 4]);
    }

    #[test]
    fn pixels_of_three_bytes_are_written_byte_by_byte() {
        let info = FrameBufferInfo {
            byte_len: 12,
            width: 2,
            height: 2,
            pixel_format: PixelFormat::Rgb,
            bytes_per_pixel: 3,
            stride: 2,
        };
        let bytes = vec![9; 12].leak();
        let screen = Framebuffer::new(bytes, info).unwrap();
        screen.set(1, 0, ORANGE);
        // SAFETY: the buffer has twelve bytes.
        let written: [u8; 12] = unsafe { screen.first.cast().read() };
        assert_eq!(written, [9, 9, 9, 255, 128, 7, 9, 9, 9, 9, 9, 9]);
    }

    #[test]
    fn pixels_of_four_bytes_may_lie_anywhere() {
        let info = FrameBufferInfo {
            byte_len: 8,
            width: 2,
            height: 1,
            pixel_format: PixelFormat::Rgb,
            bytes_per_pixel: 4,
            stride: 2,
        };
        for start in 0..4 {
            let words = vec![0_u32; 3].leak();
            // SAFETY: all bytes are values of `u8`.
            let (_, bytes, _) = unsafe { words.align_to_mut::<u8>() };
            let screen = Framebuffer::new(&mut bytes[start..start + 8], info).unwrap();
            screen.set(1, 0, ORANGE);
            assert_eq!(screen.pixel(0, 0), [0; 4]);
            assert_eq!(screen.pixel(1, 0), [255, 128, 7, 0]);
        }
    }

    #[test]
    fn a_buffer_that_is_too_small_is_refused() {
        let info = screen(4, 2, PixelFormat::Rgb).info();
        assert!(Framebuffer::new(vec![0; info.byte_len - 1].leak(), info).is_none());
        let wide = FrameBufferInfo { width: 8, ..info };
        assert!(Framebuffer::new(vec![0; info.byte_len].leak(), wide).is_none());
        let huge = FrameBufferInfo {
            height: usize::MAX,
            ..info
        };
        assert!(Framebuffer::new(vec![0; info.byte_len].leak(), huge).is_none());
    }
}
