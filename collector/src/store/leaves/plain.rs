//! Values of a page that stands without a dictionary: copied one by one, and compared as numbers on the way.
//!
//! Each width is compiled for itself: a copy or a comparison of bytes whose number is not known costs more than all
//! else that is done with a value.

use parquet::bloom_filter::Sbbf;

use super::sources::{Fixed, Source};
use crate::store::chunk::{Extremes, Kind, Rows};
use crate::store::order::Place;

/// Whether values of such a kind and width are copied here: of texts and doubles more is to be known.
pub(super) fn knows(kind: Kind, width: usize) -> bool {
    match kind {
        Kind::Id(_) => matches!(width, 8 | 16),
        Kind::Int => width == size_of::<i32>(),
        Kind::Long => width == size_of::<i64>(),
        Kind::Text | Kind::Double | Kind::Flag => false,
    }
}

/// Copies the values at `places` behind `values`, notes which rows have one, and tells the least and the greatest.
pub(super) fn copy(
    (kind, width): (Kind, usize),
    sources: &[Fixed<'_>],
    places: &[Place],
    rows: &mut Rows,
    values: &mut Vec<u8>,
    bloom: Option<&mut Sbbf>,
) -> Option<Extremes> {
    match (kind, width) {
        (Kind::Id(_), 16) => copy_of(sources, places, rows, values, bloom, u128::from_be_bytes),
        (Kind::Id(_), 8) => copy_of(sources, places, rows, values, bloom, u64::from_be_bytes),
        (Kind::Int, _) => copy_of(sources, places, rows, values, bloom, i32::from_le_bytes),
        _ => copy_of(sources, places, rows, values, bloom, i64::from_le_bytes),
    }
}

/// `rank` orders as the kind does.
#[inline]
fn copy_of<const WIDTH: usize, R: Copy + Ord>(
    sources: &[Fixed<'_>],
    places: &[Place],
    rows: &mut Rows,
    values: &mut Vec<u8>,
    mut bloom: Option<&mut Sbbf>,
    rank: impl Fn([u8; WIDTH]) -> R,
) -> Option<Extremes> {
    values.reserve(places.len() * WIDTH);
    let mut extremes: Option<[(R, [u8; WIDTH]); 2]> = None;
    for (batch, row) in places {
        let value = sources[*batch].value(*row).and_then(<[u8]>::first_chunk::<WIDTH>);
        rows.definitions.push(u8::from(value.is_some()));
        let Some(value) = value else { continue };
        values.extend_from_slice(value);
        let ranked = (rank(*value), *value);
        let [least, greatest] = extremes.get_or_insert([ranked; 2]);
        if ranked.0 < least.0 {
            *least = ranked;
        }
        if ranked.0 > greatest.0 {
            *greatest = ranked;
        }
        if let Some(bloom) = &mut bloom {
            bloom.insert(value.as_slice());
        }
    }
    extremes.map(|[(_, least), (_, greatest)]| (least.to_vec(), greatest.to_vec()))
}
