//! Parts of an image that a network sees.

use tensor::Rng;

/// Part of an image that is resized to a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The largest square in the middle.
    Whole,
    /// The central square of the image after its shorter side was resized to 256/224 of the square's: torchvision's
    /// `Resize(256)`, `CenterCrop(224)`.
    Centre,
    /// torchvision's `RandomResizedCrop`: 8 % to all of the area, with a ratio of width to height between 3/4 and
    /// 4/3. The part is a pure function of the key, `[seed, epoch, image]`, and of the image's size.
    Random([u64; 3]),
}

/// One axis of a view: the output covers `begin..begin + extent`, and is made of the pixels `from..to`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Frame {
    pub from: usize,
    pub to: usize,
    pub begin: f64,
    pub extent: f64,
}

impl Frame {
    /// The middle `extent` of an axis of `length`.
    fn middle(length: usize, extent: f64) -> Self {
        Self { from: 0, to: length, begin: (length as f64 - extent) / 2.0, extent }
    }

    /// A crop before resizing: nothing outside it counts.
    fn cut(from: usize, length: usize) -> Self {
        Self { from, to: from + length, begin: from as f64, extent: length as f64 }
    }
}

/// Shares of the area.
const AREA: [f64; 2] = [0.08, 1.0];
/// Ratios of width to height.
const RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// Crops that are tried before the middle is taken.
const TRIES: usize = 10;

impl View {
    /// The rows and the columns of an image of `height` by `width` that become a square of `size` by `size`.
    pub(crate) fn frames(self, [height, width]: [usize; 2], size: usize) -> [Frame; 2] {
        let side = height.min(width) as f64;
        match self {
            Self::Whole => [height, width].map(|length| Frame::middle(length, side)),
            Self::Centre => {
                let resized = (size as f64 * 256.0 / 224.0).round();
                [height, width].map(|length| Frame::middle(length, side * size as f64 / resized))
            }
            Self::Random(key) => random([height, width], &mut Rng::named("random-resized crop", &key)),
        }
    }
}

fn random([height, width]: [usize; 2], rng: &mut Rng) -> [Frame; 2] {
    let between = |[low, high]: [f64; 2], share: f64| low + (high - low) * share;
    for _ in 0..TRIES {
        let area = (height * width) as f64 * between(AREA, rng.uniform());
        let ratio = between(RATIO.map(f64::ln), rng.uniform()).exp();
        let [rows, columns] = [area / ratio, area * ratio].map(|square| square.sqrt().round() as usize);
        if (1..=height).contains(&rows) && (1..=width).contains(&columns) {
            let (top, left) = (rng.below(height - rows + 1), rng.below(width - columns + 1));
            return [Frame::cut(top, rows), Frame::cut(left, columns)];
        }
    }
    // The middle of an image that is too wide or too high: as much as the ratios allow.
    let ratio = (width as f64 / height as f64).clamp(RATIO[0], RATIO[1]);
    let columns = ((height as f64 * ratio).round() as usize).clamp(1, width);
    let rows = ((width as f64 / ratio).round() as usize).clamp(1, height);
    [Frame::cut((height - rows) / 2, rows), Frame::cut((width - columns) / 2, columns)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn still_views_are_in_the_middle() {
        let [rows, columns] = View::Whole.frames([375, 500], 224);
        assert_eq!((rows.begin, rows.extent, columns.begin, columns.extent), (0.0, 375.0, 62.5, 375.0));
        let [rows, columns] = View::Centre.frames([256, 512], 224);
        assert_eq!((rows.begin, rows.extent, columns.begin, columns.extent), (16.0, 224.0, 144.0, 224.0));
        assert_eq!((rows.from, rows.to, columns.to), (0, 256, 512), "it is resized before it is cut");
    }

    #[test]
    fn random_crops_have_the_areas_and_ratios_and_places_that_they_should() {
        let (height, width) = (300, 400);
        let crops: Vec<[Frame; 2]> =
            (0..4000).map(|image| View::Random([1, 2, image]).frames([height, width], 224)).collect();
        let (mut areas, mut lefts) = (Vec::new(), 0.0);
        for [rows, columns] in &crops {
            assert!(rows.to <= height && columns.to <= width && rows.from < rows.to && columns.from < columns.to);
            let ratio = columns.extent / rows.extent;
            assert!((0.74..1.35).contains(&ratio), "{ratio}");
            areas.push(rows.extent * columns.extent / (height * width) as f64);
            let room = width as f64 - columns.extent;
            lefts += if room > 0.0 { columns.begin / room } else { 0.5 };
        }
        assert!(areas.iter().all(|area| (0.078..=1.0).contains(area)));
        // In an image of 4 to 3, a crop of ratio r fits up to the share m = 0.75 r; averaged over r, (m^2 - 0.08^2) /
        // 2 (m - 0.08) is 0.432.
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        assert!((0.42..0.445).contains(&mean), "{mean}");
        let left = lefts / crops.len() as f64;
        assert!((left - 0.5).abs() < 0.03, "{left}");
        assert_eq!(crops[7], View::Random([1, 2, 7]).frames([height, width], 224));
        assert_ne!(crops[7], View::Random([1, 3, 7]).frames([height, width], 224));
    }

    #[test]
    fn images_of_extreme_shapes_have_a_crop() {
        for [height, width] in [[1, 1000], [1000, 1], [1, 1], [2, 3]] {
            for image in 0..50 {
                let [rows, columns] = View::Random([0, 0, image]).frames([height, width], 8);
                assert!(rows.to <= height && columns.to <= width && rows.extent >= 1.0 && columns.extent >= 1.0);
            }
        }
    }
}
