//! Parquet's packed differences of 64-bit numbers, in which times and durations are written.
//!
//! The library has the same and makes it only with a writer of its own for each column of a file, of which a seal has some
//! hundred. What is written here is read back in tests, and by everybody who reads a file, by the library's own reader.

/// Numbers of a block, and of each of the parts whose differences have as many bits as the greatest of them needs.
const BLOCK: usize = 128;
const PART: usize = 32;

/// Writes numbers behind `out`.
pub(super) fn write(numbers: &[i64], out: &mut Vec<u8>) {
    varint(crate::columns::count(BLOCK), out);
    varint(crate::columns::count(BLOCK / PART), out);
    varint(crate::columns::count(numbers.len()), out);
    let Some((first, rest)) = numbers.split_first() else { return varint(0, out) };
    varint(zigzag(*first), out);
    let mut last = *first;
    let mut differences = [0; BLOCK];
    for block in rest.chunks(BLOCK) {
        for (difference, number) in differences.iter_mut().zip(block) {
            *difference = number.wrapping_sub(last);
            last = *number;
        }
        write_block(&differences[..block.len()], out);
    }
}

fn write_block(differences: &[i64], out: &mut Vec<u8>) {
    let least = differences.iter().copied().min().unwrap_or(0);
    varint(zigzag(least), out);
    let above = |difference: &i64| difference.wrapping_sub(least).cast_unsigned();
    let mut widths = [0; BLOCK / PART];
    for (width, part) in widths.iter_mut().zip(differences.chunks(PART)) {
        let all = part.iter().map(above).fold(0, |all, above| all | above);
        *width = u8::try_from(u64::BITS - all.leading_zeros()).unwrap_or(u8::MAX);
    }
    out.extend_from_slice(&widths);
    for (width, part) in widths.into_iter().zip(differences.chunks(PART)) {
        pack(part.iter().map(above), width, out);
    }
}

/// Packs the numbers of a part; one that is not full is filled up with zeros.
fn pack(numbers: impl Iterator<Item = u64>, width: u8, out: &mut Vec<u8>) {
    let end = out.len() + PART * usize::from(width) / 8;
    let (mut bits, mut filled) = (0_u128, 0_u32);
    for number in numbers {
        bits |= u128::from(number) << filled;
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

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
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
    fn read(mut bytes: &[u8]) -> Vec<i64> {
        let varint = |bytes: &mut &[u8]| {
            let (mut number, mut shift) = (0_u64, 0);
            loop {
                let (byte, rest) = bytes.split_first().unwrap();
                *bytes = rest;
                number |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if *byte < 0x80 {
                    return number;
                }
            }
        };
        let signed = |number: u64| (number >> 1).cast_signed() ^ -(number & 1).cast_signed();
        let [block, parts, count] = [(); 3].map(|()| usize::try_from(varint(&mut bytes)).unwrap());
        let first = signed(varint(&mut bytes));
        let mut numbers = vec![first];
        while numbers.len() < count {
            let least = signed(varint(&mut bytes));
            let (widths, rest) = bytes.split_at(parts);
            bytes = rest;
            for width in widths.iter().map(|width| usize::from(*width)) {
                if numbers.len() >= count {
                    assert_eq!(width, 0, "a part without numbers takes nothing");
                    continue;
                }
                let (packed, rest) = bytes.split_at(block / parts * width / 8);
                bytes = rest;
                for nth in 0..(block / parts).min(count - numbers.len()) {
                    let bit = |at: usize| u64::from(packed[at / 8] >> (at % 8) & 1);
                    let above = (0..width).fold(0, |number, at| number | bit(nth * width + at) << at);
                    numbers.push(numbers.last().unwrap().wrapping_add(least).wrapping_add(above.cast_signed()));
                }
            }
        }
        assert!(bytes.is_empty(), "{} bytes follow the last number", bytes.len());
        numbers.truncate(count);
        numbers
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            numbers in prop_oneof![
                proptest::collection::vec(any::<i64>(), 0..300),
                proptest::collection::vec(1_763_683_200_000_000_000_i64..1_763_683_200_000_090_000, 0..300),
                proptest::collection::vec(Just(-5_i64), 0..300),
            ],
        ) {
            let mut out = Vec::new();
            write(&numbers, &mut out);
            prop_assert_eq!(read(&out), numbers);
        }
    }
}
