//! Parquet's hybrid of repeated and bit-packed numbers, in which levels and places in a dictionary are written.
//!
//! The library writes the same form and does not give its writer out; what is read back here in tests, and by everybody
//! who reads a file, is read by the library's own reader. Runs are looked for at every eighth number only, since packed
//! numbers come by eights: what a finer search would save, the compression behind it finds as well.

/// Numbers of a packed group, and of the shortest run that is written as one.
const GROUP: usize = 8;

/// Numbers of a run that are compared at once.
const RUN: usize = 32;

/// Most bits of a number of which a group of eight is packed at once.
const WHOLE: u8 = 16;

/// Bits that hold every number up to `most`.
pub(super) fn width_of(most: u32) -> u8 {
    u8::try_from(u32::BITS - most.leading_zeros()).unwrap_or(u8::MAX)
}

/// Writes numbers of `width` bits each behind `out`.
pub(super) fn write<T: Copy + PartialEq + Into<u32>>(numbers: &[T], width: u8, out: &mut Vec<u8>) {
    let (mut at, mut packed) = (0, 0);
    while at < numbers.len() {
        let first = numbers[at];
        let run = run(first, &numbers[at..]);
        if run >= GROUP {
            pack(&numbers[packed..at], width, out);
            repeat(first.into(), run, width, out);
            at += run;
            packed = at;
        } else {
            at = (at + GROUP).min(numbers.len());
        }
    }
    pack(&numbers[packed..], width, out);
}

/// How often a number stands at the beginning. Many are compared at once, without an early end among them: most columns are
/// one run.
fn run<T: Copy + PartialEq>(first: T, numbers: &[T]) -> usize {
    let (wide, _) = numbers.as_chunks::<RUN>();
    let whole = wide.iter().take_while(|many| many.iter().fold(true, |same, number| same & (*number == first))).count();
    let begun = whole * RUN;
    begun + numbers[begun..].iter().take_while(|number| **number == first).count()
}

/// One number, so many times.
fn repeat(number: u32, times: usize, width: u8, out: &mut Vec<u8>) {
    varint(times << 1, out);
    out.extend_from_slice(&number.to_le_bytes()[..usize::from(width).div_ceil(8)]);
}

/// Numbers one behind the other; the last group is filled up with zeros.
fn pack<T: Copy + Into<u32>>(numbers: &[T], width: u8, out: &mut Vec<u8>) {
    if numbers.is_empty() {
        return;
    }
    let groups = numbers.len().div_ceil(GROUP);
    varint(groups << 1 | 1, out);
    let end = out.len() + groups * usize::from(width);
    let (whole, rest) = if width <= WHOLE { numbers.as_chunks::<GROUP>() } else { (&[][..], numbers) };
    for group in whole {
        let bits = group.iter().rev().fold(0_u128, |bits, number| bits << width | u128::from((*number).into()));
        out.extend_from_slice(&bits.to_le_bytes()[..usize::from(width)]);
    }
    let (mut bits, mut filled) = (0_u64, 0);
    for number in rest {
        let number: u32 = (*number).into();
        bits |= u64::from(number) << filled;
        filled += u32::from(width);
        while filled >= u8::BITS {
            let [low, ..] = bits.to_le_bytes();
            out.push(low);
            bits >>= u8::BITS;
            filled -= u8::BITS;
        }
    }
    if filled > 0 {
        let [low, ..] = bits.to_le_bytes();
        out.push(low);
    }
    out.resize(end, 0);
}

fn varint(mut number: usize, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads the form back, as its specification has it.
    fn read(mut bytes: &[u8], width: u8, count: usize) -> Vec<u32> {
        let mut numbers = Vec::new();
        let mut next = || {
            let (byte, rest) = bytes.split_first().unwrap();
            bytes = rest;
            *byte
        };
        while numbers.len() < count {
            let (mut header, mut shift) = (0_usize, 0);
            loop {
                let byte = next();
                header |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    break;
                }
            }
            if header & 1 == 0 {
                let number = (0..width.div_ceil(8)).fold(0, |number, at| number | u32::from(next()) << (8 * at));
                numbers.extend(std::iter::repeat_n(number, header >> 1));
            } else {
                let groups = header >> 1;
                let packed: Vec<u8> = (0..groups * usize::from(width)).map(|_| next()).collect();
                let bit = |at: usize| u32::from(packed[at / 8] >> (at % 8) & 1);
                let width = usize::from(width);
                numbers.extend(
                    (0..groups * GROUP).map(|n| (0..width).fold(0, |number, at| number | bit(n * width + at) << at)),
                );
            }
        }
        assert!(bytes.is_empty(), "{} bytes follow the last number", bytes.len());
        numbers.truncate(count);
        numbers
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            runs in proptest::collection::vec((0_u32..70_000, 1_usize..40), 0..60),
            most in 0_u32..70_000,
        ) {
            let numbers: Vec<u32> =
                runs.iter().flat_map(|(number, times)| std::iter::repeat_n(number % (most + 1), *times)).collect();
            let width = width_of(most);
            let mut out = Vec::new();
            write(&numbers, width, &mut out);
            prop_assert_eq!(read(&out, width, numbers.len()), numbers);
        }
    }

    #[test]
    fn equal_numbers_take_a_few_bytes_however_many_there_are() {
        let mut out = Vec::new();
        write(&[1_u8; 100_000], width_of(1), &mut out);
        assert_eq!(out, [0xc0, 0x9a, 0x0c, 1]);
    }
}
