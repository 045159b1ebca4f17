//! The tables that the catalog's are made of: relations, columns, types and settings.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int16Array, RecordBatch, StringArray, UInt32Array};
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use pgwire::api::Type;

use super::super::session::Session;
use super::super::types::{length, of_field};
use crate::ports::relations::{Kind, Relation};

/// The schema that they are in; clients do not see it, and can.
pub(super) const BASE: &str = "base";
/// The first object id that is no system object's.
const FIRST_OID: u32 = 16_384;

/// Every type that a column or a parameter can have, its category, its array, and its name in SQL.
pub(super) const TYPES: &[(Type, char, Type, &str)] = &[
    (Type::BOOL, 'B', Type::BOOL_ARRAY, "boolean"),
    (Type::BYTEA, 'U', Type::BYTEA_ARRAY, "bytea"),
    (Type::NAME, 'S', Type::NAME_ARRAY, "name"),
    (Type::INT8, 'N', Type::INT8_ARRAY, "bigint"),
    (Type::INT2, 'N', Type::INT2_ARRAY, "smallint"),
    (Type::INT4, 'N', Type::INT4_ARRAY, "integer"),
    (Type::TEXT, 'S', Type::TEXT_ARRAY, "text"),
    (Type::OID, 'N', Type::OID_ARRAY, "oid"),
    (Type::JSON, 'U', Type::JSON_ARRAY, "json"),
    (Type::JSONB, 'U', Type::JSONB_ARRAY, "jsonb"),
    (Type::FLOAT4, 'N', Type::FLOAT4_ARRAY, "real"),
    (Type::FLOAT8, 'N', Type::FLOAT8_ARRAY, "double precision"),
    (Type::BPCHAR, 'S', Type::BPCHAR_ARRAY, "character"),
    (Type::VARCHAR, 'S', Type::VARCHAR_ARRAY, "character varying"),
    (Type::DATE, 'D', Type::DATE_ARRAY, "date"),
    (Type::TIME, 'D', Type::TIME_ARRAY, "time without time zone"),
    (Type::TIMESTAMP, 'D', Type::TIMESTAMP_ARRAY, "timestamp without time zone"),
    (Type::TIMESTAMPTZ, 'D', Type::TIMESTAMPTZ_ARRAY, "timestamp with time zone"),
    (Type::INTERVAL, 'T', Type::INTERVAL_ARRAY, "interval"),
    (Type::NUMERIC, 'N', Type::NUMERIC_ARRAY, "numeric"),
    (Type::UUID, 'U', Type::UUID_ARRAY, "uuid"),
];

/// The object id of a relation, by its place in the list.
pub(super) fn oid(place: usize) -> u32 {
    FIRST_OID.saturating_add(u32::try_from(place).unwrap_or_default())
}

/// The name in SQL of a type, by its object id.
pub(super) fn type_name(oid: u32) -> Option<String> {
    TYPES.iter().find_map(|(of, _, array, name)| {
        let found = if of.oid() == oid { Some((*name).to_owned()) } else { None };
        found.or_else(|| (array.oid() == oid).then(|| format!("{name}[]")))
    })
}

fn texts(values: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn numbers(values: impl IntoIterator<Item = u32>) -> ArrayRef {
    Arc::new(UInt32Array::from_iter_values(values))
}

fn shorts(values: impl IntoIterator<Item = i16>) -> ArrayRef {
    Arc::new(Int16Array::from_iter_values(values))
}

/// Registers them.
pub(super) fn register(
    context: &SessionContext,
    relations: &[Relation],
    session: &Session,
) -> Result<(), DataFusionError> {
    let settings = session.all();
    let tables = [
        ("relations", of_relations(relations)?),
        ("columns", of_columns(relations)?),
        ("types", of_types()?),
        (
            "settings",
            RecordBatch::try_from_iter([
                ("name", texts(settings.iter().map(|(name, _)| (*name).to_owned()))),
                ("setting", texts(settings.iter().map(|(_, value)| value.clone()))),
            ])?,
        ),
        ("session", RecordBatch::try_from_iter([("usename", texts([session.user()]))])?),
    ];
    for (name, batch) in tables {
        let table = Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?);
        context.register_table(TableReference::partial(BASE, name), table)?;
    }
    Ok(())
}

const fn relkind(kind: Kind) -> &'static str {
    match kind {
        Kind::Table => "r",
        Kind::View => "v",
    }
}

fn of_relations(relations: &[Relation]) -> Result<RecordBatch, DataFusionError> {
    let count = |relation: &Relation| i16::try_from(relation.schema.fields().len()).unwrap_or(i16::MAX);
    Ok(RecordBatch::try_from_iter([
        ("oid", numbers((0..relations.len()).map(oid))),
        ("name", texts(relations.iter().map(|relation| relation.name.to_owned()))),
        ("kind", texts(relations.iter().map(|relation| relkind(relation.kind).to_owned()))),
        ("columns", shorts(relations.iter().map(count))),
    ])?)
}

fn of_columns(relations: &[Relation]) -> Result<RecordBatch, DataFusionError> {
    let all: Vec<_> = relations
        .iter()
        .enumerate()
        .flat_map(|(place, relation)| {
            let fields = relation.schema.fields().iter().enumerate();
            fields.map(move |(index, field)| (oid(place), relation, index, field, of_field(field)))
        })
        .collect();
    let number = |index: usize| i16::try_from(index + 1).unwrap_or(i16::MAX);
    let nullable = |nullable: bool| if nullable { "YES" } else { "NO" }.to_owned();
    Ok(RecordBatch::try_from_iter([
        ("relation", numbers(all.iter().map(|(oid, ..)| *oid))),
        ("relation_name", texts(all.iter().map(|(_, relation, ..)| relation.name.to_owned()))),
        ("name", texts(all.iter().map(|(_, _, _, field, _)| field.name().clone()))),
        ("number", shorts(all.iter().map(|(_, _, index, ..)| number(*index)))),
        ("type", numbers(all.iter().map(|(.., of)| of.oid()))),
        ("type_name", texts(all.iter().map(|(.., of)| type_name(of.oid()).unwrap_or_else(|| of.name().to_owned())))),
        ("udt_name", texts(all.iter().map(|(.., of)| of.name().to_owned()))),
        ("length", shorts(all.iter().map(|(.., of)| length(of)))),
        ("nullable", texts(all.iter().map(|(_, _, _, field, _)| nullable(field.is_nullable())))),
    ])?)
}

fn of_types() -> Result<RecordBatch, DataFusionError> {
    let plain = TYPES.iter().map(|(of, category, array, _)| (of, category.to_string(), 0, array.oid()));
    let arrays = TYPES.iter().map(|(of, _, array, _)| (array, "A".to_owned(), of.oid(), 0));
    let all: Vec<_> = plain.chain(arrays).collect();
    Ok(RecordBatch::try_from_iter([
        ("oid", numbers(all.iter().map(|(of, ..)| of.oid()))),
        ("name", texts(all.iter().map(|(of, ..)| of.name().to_owned()))),
        ("length", shorts(all.iter().map(|(of, ..)| length(of)))),
        ("category", texts(all.iter().map(|(_, category, ..)| category.clone()))),
        ("element", numbers(all.iter().map(|(_, _, element, _)| *element))),
        ("array", numbers(all.iter().map(|(.., array)| *array))),
    ])?)
}
