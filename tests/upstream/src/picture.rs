//! Pictures: real PNG files of the asked size, the same for the same seed.
//!
//! Lacks JPEG and WebP: whatever format is asked, a PNG comes.

/// How pictures are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pictures {
    /// Two colours in stripes, of the asked size: some kilobytes.
    #[default]
    Striped,
    /// 16 x 16 pixels whatever size is asked, so that bodies are small under load.
    Thumbnail,
    /// Noise of the asked size, as large as a file can be: 3 bytes a pixel.
    Noise,
}

/// One picture, before it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) seed: u32,
}

impl Picture {
    pub(crate) fn png(&self, pictures: Pictures) -> Vec<u8> {
        match pictures {
            Pictures::Striped => self.striped(),
            Pictures::Thumbnail => Self { width: 16, height: 16, ..*self }.striped(),
            Pictures::Noise => self.noise(),
        }
    }

    fn striped(&self) -> Vec<u8> {
        let bytes_a_row = self.width.div_ceil(8) as usize;
        let stripes = self.seed.to_be_bytes();
        let rows = (0..self.height as usize).map(|row| stripes[row / 8 % stripes.len()]);
        let pixels: Vec<u8> = rows.flat_map(|stripe| std::iter::repeat_n(stripe, bytes_a_row)).collect();
        let [a, b, c, d] = stripes;
        let encoded = self.encode(png::ColorType::Indexed, png::BitDepth::One, Some(vec![a, b, c, d, a, b]), &pixels);
        encoded.expect("the pixels are as many as the size says")
    }

    fn noise(&self) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(u64::from(self.seed));
        let mut pixels = vec![0; self.width as usize * self.height as usize * 3];
        random.fill(&mut pixels);
        let encoded = self.encode(png::ColorType::Rgb, png::BitDepth::Eight, None, &pixels);
        encoded.expect("the pixels are as many as the size says")
    }

    fn encode(
        &self,
        color: png::ColorType,
        depth: png::BitDepth,
        palette: Option<Vec<u8>>,
        pixels: &[u8],
    ) -> Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        encoder.set_compression(png::Compression::Fastest);
        // To look for the best filter takes longer than all the rest.
        encoder.set_filter(png::Filter::Up);
        if let Some(palette) = palette {
            encoder.set_palette(palette);
        }
        encoder.write_header()?.write_image_data(pixels)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_decodes_and_has_its_size() {
        for (pictures, width, height) in
            [(Pictures::Striped, 1_536, 1_024), (Pictures::Thumbnail, 16, 16), (Pictures::Noise, 1_536, 1_024)]
        {
            let file = Picture { width: 1_536, height: 1_024, seed: 3 }.png(pictures);
            let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let frame = reader.next_frame(&mut pixels).unwrap();
            assert_eq!((frame.width, frame.height), (width, height), "{pictures:?}");
        }
    }

    #[test]
    fn stripes_are_small_and_noise_is_large() {
        let picture = Picture { width: 1_024, height: 1_024, seed: 3 };
        assert!(picture.png(Pictures::Striped).len() < 20_000);
        assert!(picture.png(Pictures::Noise).len() > 3_000_000);
    }

    #[test]
    fn a_seed_gives_the_same_picture() {
        let file = |seed| Picture { width: 64, height: 64, seed }.png(Pictures::Striped);
        assert_eq!(file(1), file(1));
        assert_ne!(file(1), file(2));
    }
}
