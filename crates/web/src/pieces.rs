//! Texts that are deflated once and sent to many. A piece ends at a whole byte and refers to
//! nothing before it, so pieces can follow each other in one stream of gzip; a client that takes no
//! gzip gets them inflated while it reads.

use std::io::{self, Write};

use axum::body::Bytes;
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc, Decompress, FlushDecompress};

/// What a stream of gzip begins with: no name, no time, from anywhere.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty last block, with which a stream of deflated pieces ends.
const LAST_BLOCK: [u8; 2] = [3, 0];
/// How much is inflated at a time.
const CHUNK: usize = 16 * 1024;

/// A text, deflated. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Piece {
    deflated: Bytes,
    length: usize,
    crc: u32,
}

pub struct PieceWriter {
    encoder: DeflateEncoder<Vec<u8>>,
    crc: Crc,
}

impl PieceWriter {
    /// A piece without text yet.
    pub fn new() -> Self {
        Self {
            encoder: DeflateEncoder::new(Vec::new(), Compression::new(3)),
            crc: Crc::new(),
        }
    }

    pub fn text(&mut self, text: &str) {
        self.crc.update(text.as_bytes());
        // A vector takes everything.
        let _ = self.encoder.write_all(text.as_bytes());
    }

    pub fn done(mut self) -> Piece {
        let length = self.crc.amount() as usize;
        // Without text there is nothing to flush, and nothing to send.
        if length > 0 {
            let _ = self.encoder.flush();
        }
        Piece {
            deflated: Bytes::copy_from_slice(self.encoder.get_ref()),
            length,
            crc: self.crc.sum(),
        }
    }
}

impl Piece {
    /// The piece of a text.
    pub fn of(text: &str) -> Self {
        let mut writer = PieceWriter::new();
        writer.text(text);
        writer.done()
    }

    /// How long the text is.
    pub fn length(&self) -> usize {
        self.length
    }

    pub fn deflated(&self) -> Bytes {
        self.deflated.clone()
    }

    /// The text alone, as a whole file of gzip in parts.
    pub fn as_gzip(&self) -> [Bytes; 3] {
        let mut end = LAST_BLOCK.to_vec();
        end.extend(self.crc.to_le_bytes());
        // The length counts modulo 2^32.
        end.extend((self.length as u32).to_le_bytes());
        [gzip_head(), self.deflated(), end.into()]
    }

    /// The text itself, in chunks.
    pub fn inflate(&self) -> Inflating {
        Inflating {
            deflated: self.deflated(),
            at: 0,
            decompress: Decompress::new(false),
        }
    }
}

/// What a stream of gzip begins with.
pub fn gzip_head() -> Bytes {
    Bytes::from_static(&HEAD)
}

/// A piece on its way to a client that takes no gzip.
#[derive(Debug)]
pub struct Inflating {
    deflated: Bytes,
    at: usize,
    decompress: Decompress,
}

impl Iterator for Inflating {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut chunk = Vec::with_capacity(CHUNK);
        let before = self.decompress.total_in();
        let rest = self.deflated.get(self.at..).unwrap_or_default();
        let inflated = self
            .decompress
            .decompress_vec(rest, &mut chunk, FlushDecompress::Sync);
        self.at += usize::try_from(self.decompress.total_in() - before).unwrap_or(0);
        // Nothing more is a piece's end; it is its own, so it cannot be malformed.
        (inflated.is_ok() && !chunk.is_empty()).then(|| chunk.into())
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.crc.update(bytes);
        self.encoder.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read as _;

    fn long() -> String {
        (0..50_000).map(|number| format!("{number}, ")).collect()
    }

    #[test]
    fn a_piece_is_a_file_of_gzip_and_its_own_text() {
        for text in ["", "short", &long()] {
            let piece = Piece::of(text);
            assert_eq!(piece.length(), text.len());
            let mut read = String::new();
            GzDecoder::new(&piece.as_gzip().concat()[..])
                .read_to_string(&mut read)
                .unwrap();
            assert!(read == text);
            let inflated: Vec<Bytes> = piece.inflate().collect();
            assert!(inflated.concat() == text.as_bytes());
            assert!(inflated.iter().all(|chunk| chunk.len() <= CHUNK));
        }
    }

    #[test]
    fn pieces_follow_each_other_in_one_stream() {
        let long = long();
        let texts = ["id: 1\n", &long, "", "\n\n", &long];
        let mut stream = gzip_head().to_vec();
        for text in texts {
            stream.extend(Piece::of(text).deflated());
        }
        let mut read = Vec::new();
        // It has no end: all that is there is read before that is noticed.
        let error = GzDecoder::new(&stream[..]).read_to_end(&mut read).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(read == texts.concat().as_bytes());
    }
}
