//! Decoding of one JPEG or PNG image, and resizing of a part of it ([`View`]) to a square of packed pixels.
//!
//! Resizing weights all pixels that an output pixel covers by a triangle of twice its width (of two pixels if the
//! image grows), as Pillow's and torchvision's antialiased bilinear filter does.

use std::io::Cursor;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::dataset::pack_rgb;
use crate::view::{Frame, View};

/// The most pixels that an image may have. The largest of ImageNet has 55 million.
const MAX_PIXELS: usize = 100_000_000;
/// The greatest height or width.
const MAX_SIDE: usize = 32_768;

/// An image in memory: `[height, width, channels]` bytes, of which the first three channels, or the only one, count.
struct Picture {
    height: usize,
    width: usize,
    channels: usize,
    samples: Vec<u8>,
}

/// Reason why an image could not be decoded, phrased to follow the file's name.
pub(crate) type Problem = String;

/// Decodes a file's bytes into `size * size` pixels; the format is recognised by the first bytes, not by a name.
///
/// # Errors
///
/// They are not a JPEG or PNG, are damaged or truncated, or encode too large an image.
pub(crate) fn square(file: &[u8], view: View, size: usize, out: &mut [u32]) -> Result<(), Problem> {
    let picture = match file {
        [] => return Err("is empty".to_owned()),
        [0xff, 0xd8, ..] => jpeg(file)?,
        [0x89, b'P', b'N', b'G', ..] => png(file)?,
        _ => return Err("is no JPEG or PNG image".to_owned()),
    };
    let frames = view.frames([picture.height, picture.width], size);
    resize(&picture, frames, size, out);
    Ok(())
}

fn check_size(width: usize, height: usize) -> Result<(), Problem> {
    let pixels = width.saturating_mul(height);
    if pixels == 0 || pixels > MAX_PIXELS || width.max(height) > MAX_SIDE {
        return Err(format!("claims to be of {width} x {height} pixels"));
    }
    Ok(())
}

fn in_one_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<&str>>().join(" ")
}

fn jpeg(file: &[u8]) -> Result<Picture, Problem> {
    let broken = |error: &dyn std::fmt::Display| format!("is a broken JPEG image ({})", in_one_line(error));
    let options = DecoderOptions::default()
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(|error| broken(&error))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| broken(&"it has no size"))?;
    check_size(width, height)?;
    // The decoder fills the missing part of a truncated file with grey.
    if !ends(file) {
        return Err("is a JPEG image that breaks off".to_owned());
    }
    let samples = decoder.decode().map_err(|error| broken(&error))?;
    whole(Picture { height, width, channels: 3, samples })
}

/// Tells whether an end marker follows the last scan. Within scans, a byte 0xff is never followed by the second byte
/// of either marker.
fn ends(jpeg: &[u8]) -> bool {
    const SCAN: [u8; 2] = [0xff, 0xda];
    const END: [u8; 2] = [0xff, 0xd9];
    let last = |marker: [u8; 2]| jpeg.windows(2).rposition(|bytes| bytes == marker);
    last(END) > last(SCAN)
}

fn png(file: &[u8]) -> Result<Picture, Problem> {
    let broken = |error: png::DecodingError| format!("is a broken PNG image ({})", in_one_line(&error));
    // Limit on the memory of chunks beside the image.
    let limits = png::Limits { bytes: 64 << 20 };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(file), limits);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(broken)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    check_size(width, height)?;
    let bytes = reader.output_buffer_size().ok_or("is a PNG image that is too large")?;
    let mut samples = vec![0; bytes];
    let frame = reader.next_frame(&mut samples).map_err(broken)?;
    samples.truncate(frame.buffer_size());
    whole(Picture { height, width, channels: frame.color_type.samples(), samples })
}

/// Checks that a decoder gave as many bytes as it announced.
fn whole(picture: Picture) -> Result<Picture, Problem> {
    let expected = picture.height * picture.width * picture.channels;
    if picture.samples.len() == expected {
        return Ok(picture);
    }
    Err(format!("is broken: it decodes to {} bytes instead of {expected}", picture.samples.len()))
}

/// Terms of one output coordinate: weights, of sum 1, of consecutive input coordinates.
struct Tap {
    first: usize,
    weights: Vec<f32>,
}

/// The taps along an axis whose frame is resized to `size`.
fn taps(frame: Frame, size: usize) -> Vec<Tap> {
    let scale = frame.extent / size as f64;
    let reach = scale.max(1.0);
    let tap = |i: usize| {
        let centre = frame.begin + (i as f64 + 0.5) * scale;
        let first = ((centre - reach).floor().max(0.0) as usize).max(frame.from);
        let end = ((centre + reach).ceil() as usize).min(frame.to);
        let weight = |j: usize| (1.0 - ((j as f64 + 0.5 - centre) / reach).abs()).max(0.0);
        let sum: f64 = (first..end).map(weight).sum();
        Tap { first, weights: (first..end).map(|j| (weight(j) / sum) as f32).collect() }
    };
    (0..size).map(tap).collect()
}

/// Reduces an input row to one value of each of `COLOURS` colours for each tap.
fn narrow_row<const COLOURS: usize>(row: &[u8], channels: usize, taps: &[Tap], out: &mut [f32]) {
    for (tap, out) in taps.iter().zip(out.as_chunks_mut::<COLOURS>().0) {
        let pixels = row[tap.first * channels..].chunks_exact(channels);
        let mut sums = [0.0_f32; COLOURS];
        for (weight, pixel) in tap.weights.iter().zip(pixels) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += weight * f32::from(value);
            }
        }
        *out = sums;
    }
}

/// Resizes rows first, one input row at a time, then columns.
fn resize(picture: &Picture, [rows, columns]: [Frame; 2], size: usize, out: &mut [u32]) {
    let &Picture { width, channels, ref samples, .. } = picture;
    let (columns, rows) = (taps(columns, size), taps(rows, size));
    // Two channels are grey and opacity.
    let colours = if channels < 3 { 1 } else { 3 };
    let top = rows.iter().map(|tap| tap.first).min().unwrap_or(0);
    let bottom = rows.iter().map(|tap| tap.first + tap.weights.len()).max().unwrap_or(0);
    let line = size * colours;
    let mut narrow = vec![0.0_f32; (bottom - top) * line];
    for (y, target) in (top..bottom).zip(narrow.chunks_exact_mut(line)) {
        let source = &samples[y * width * channels..][..width * channels];
        if colours == 3 {
            narrow_row::<3>(source, channels, &columns, target);
        } else {
            narrow_row::<1>(source, channels, &columns, target);
        }
    }
    let mut sums = vec![0.0_f32; line];
    for (tap, out) in rows.iter().zip(out.chunks_exact_mut(size)) {
        sums.fill(0.0);
        let lines = narrow[(tap.first - top) * line..].chunks_exact(line);
        for (weight, row) in tap.weights.iter().zip(lines) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += weight * value;
            }
        }
        for (pixel, sums) in out.iter_mut().zip(sums.chunks_exact(colours)) {
            // The conversion to a byte saturates.
            let byte = |c: usize| sums[c.min(colours - 1)].round() as u8;
            *pixel = pack_rgb([byte(0), byte(1), byte(2)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(width: u32, height: u32, colour: png::ColorType, samples: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(colour);
        encoder.write_header().expect("header").write_image_data(samples).expect("data");
        file
    }

    fn decoded(file: &[u8], size: usize) -> Result<Vec<u32>, Problem> {
        let mut out = vec![0; size * size];
        square(file, View::Whole, size, &mut out).map(|()| out)
    }

    #[test]
    fn an_image_of_the_right_size_stays_as_it_is_in_every_kind_of_colour() {
        let rgb: Vec<u8> = (0..48).map(|i| (i * 5) as u8).collect();
        let expected: Vec<u32> = rgb.chunks(3).map(|c| pack_rgb([c[0], c[1], c[2]])).collect();
        assert_eq!(decoded(&encoded(4, 4, png::ColorType::Rgb, &rgb), 4).expect("valid"), expected);
        let rgba: Vec<u8> = rgb.chunks(3).flat_map(|c| [c[0], c[1], c[2], 77]).collect();
        assert_eq!(decoded(&encoded(4, 4, png::ColorType::Rgba, &rgba), 4).expect("valid"), expected);
        let grey: Vec<u8> = (0..16).map(|i| i * 16).collect();
        let expected: Vec<u32> = grey.iter().map(|&g| pack_rgb([g; 3])).collect();
        assert_eq!(decoded(&encoded(4, 4, png::ColorType::Grayscale, &grey), 4).expect("valid"), expected);
        let with_alpha: Vec<u8> = grey.iter().flat_map(|&g| [g, 9]).collect();
        assert_eq!(decoded(&encoded(4, 4, png::ColorType::GrayscaleAlpha, &with_alpha), 4).expect("valid"), expected);
    }

    #[test]
    fn the_middle_is_taken_and_weights_sum_to_one() {
        // Columns 0, 10, … 70 of a wide image: the middle four.
        let grey: Vec<u8> = (0..32).map(|i| (i % 8) * 10).collect();
        let wide = decoded(&encoded(8, 4, png::ColorType::Grayscale, &grey), 4).expect("valid");
        assert_eq!(wide[..4], [20, 30, 40, 50].map(|g| pack_rgb([g; 3])));
        for (length, side, size) in [(500, 375, 224), (375, 375, 224), (10, 3, 32), (1, 1, 32), (64, 64, 32)] {
            let frame = Frame { from: 0, to: length, begin: (length - side) as f64 / 2.0, extent: side as f64 };
            for tap in taps(frame, size) {
                assert!(
                    (tap.weights.iter().sum::<f32>() - 1.0).abs() < 1e-5 && tap.first + tap.weights.len() <= length
                );
            }
        }
    }

    #[test]
    fn halving_weighs_as_the_triangle_does() {
        let frame = Frame { from: 0, to: 8, begin: 0.0, extent: 8.0 };
        let weights = &taps(frame, 4)[1].weights;
        // Centres at distances 1.5, 0.5, 0.5, 1.5 of an output pixel that is two wide.
        assert_eq!(weights, &[0.125, 0.375, 0.375, 0.125]);
        let ends = &taps(frame, 4)[0].weights;
        let expected = [0.375, 0.375, 0.125].map(|weight: f32| weight / 0.875);
        assert!(ends.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6) && ends.len() == 3, "{ends:?}");
    }

    #[test]
    fn a_random_crop_is_the_image_that_was_cut_out_before() {
        let (height, width) = (21_usize, 34_usize);
        let pixel = |y: usize, x: usize| [(y * 11) as u8, (x * 7) as u8, (y * x) as u8];
        let part = |rows: std::ops::Range<usize>, columns: std::ops::Range<usize>| -> Vec<u8> {
            rows.flat_map(|y| columns.clone().flat_map(move |x| pixel(y, x))).collect()
        };
        let whole = encoded(width as u32, height as u32, png::ColorType::Rgb, &part(0..height, 0..width));
        for image in 0..20 {
            let view = View::Random([0, 0, image]);
            let [rows, columns] = view.frames([height, width], 9);
            let cut = Picture {
                height: rows.to - rows.from,
                width: columns.to - columns.from,
                channels: 3,
                samples: part(rows.from..rows.to, columns.from..columns.to),
            };
            let all = |length: usize| Frame { from: 0, to: length, begin: 0.0, extent: length as f64 };
            let (mut expected, mut found) = (vec![0; 81], vec![0; 81]);
            resize(&cut, [all(cut.height), all(cut.width)], 9, &mut expected);
            square(&whole, view, 9, &mut found).expect("valid");
            assert_eq!(found, expected, "{view:?}");
        }
    }

    #[test]
    fn a_plain_image_stays_plain_at_any_size() {
        for (width, height, size) in [(7, 3, 32), (40, 90, 17), (1, 1, 5)] {
            let file = encoded(width, height, png::ColorType::Rgb, &[11, 22, 33].repeat((width * height) as usize));
            assert!(decoded(&file, size).expect("valid").iter().all(|&pixel| pixel == pack_rgb([11, 22, 33])));
        }
    }

    #[test]
    fn what_is_no_whole_image_is_an_error() {
        let png = encoded(4, 4, png::ColorType::Rgb, &[9; 48]);
        // The header in PNG's format: width, height, depth, colour, and then a checksum over them and their name.
        let mut bomb = png.clone();
        bomb[16..20].copy_from_slice(&40_000_u32.to_be_bytes());
        let mut sum = flate2::Crc::new();
        sum.update(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&sum.sum().to_be_bytes());
        let cases: [(&[u8], &str); 7] = [
            (b"", "is empty"),
            (b"GIF89a", "is no JPEG or PNG"),
            (&[0xff, 0xd8], "is a broken JPEG"),
            (&[0xff, 0xd8, 0xff, 0xd9], "is a broken JPEG"),
            (&png[..20], "is a broken PNG"),
            (&png[..png.len() / 2 + 4], "is a broken PNG"),
            (&bomb, "claims to be of 40000 x 4 pixels"),
        ];
        for (file, part) in cases {
            let problem = decoded(file, 4).expect_err(part);
            assert!(problem.starts_with(part) && !problem.contains('\n'), "{problem}");
        }
    }
}
