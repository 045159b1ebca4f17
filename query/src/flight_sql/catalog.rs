//! What clients ask about the service itself: what it can do, which relations it has, which types.

use arrow::array::RecordBatch;
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables, Nullable, Searchable, SqlInfo,
    SqlSupportedTransaction, XdbcDataType,
};

use super::answer::told;
use crate::ports::relations::{CATALOG, Kind, Relation, SCHEMA};

/// The type of a relation, with the word of SQL's own information schema: Grafana's old plugin asks for `BASE TABLE`.
const fn table_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Table => "BASE TABLE",
        Kind::View => "VIEW",
    }
}

/// The one catalog.
pub(crate) fn catalogs(query: CommandGetCatalogs) -> Result<RecordBatch, FlightError> {
    let mut builder = query.into_builder();
    builder.append(CATALOG);
    builder.build()
}

/// The one schema.
pub(crate) fn schemas(query: CommandGetDbSchemas) -> Result<RecordBatch, FlightError> {
    let mut builder = query.into_builder();
    builder.append(CATALOG, SCHEMA);
    builder.build()
}

/// Tables and views, with their columns if they are wanted.
pub(crate) fn tables(query: CommandGetTables, relations: &[Relation]) -> Result<RecordBatch, FlightError> {
    let mut builder = query.into_builder();
    for relation in relations {
        builder.append(CATALOG, SCHEMA, relation.name, table_type(relation.kind), &told(&relation.schema))?;
    }
    builder.build()
}

/// The types of relations.
pub(crate) fn table_types(query: CommandGetTableTypes) -> Result<RecordBatch, FlightError> {
    let mut builder = query.into_builder();
    for kind in [Kind::Table, Kind::View] {
        builder.append(table_type(kind));
    }
    builder.build()
}

/// What the service is and can do.
pub(crate) fn sql_info() -> Result<SqlInfoData, FlightError> {
    let mut builder = SqlInfoDataBuilder::new();
    builder.append(SqlInfo::FlightSqlServerName, "Lariat");
    builder.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    builder.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    builder.append(SqlInfo::FlightSqlServerReadOnly, true);
    builder.append(SqlInfo::FlightSqlServerSql, true);
    builder.append(SqlInfo::FlightSqlServerSubstrait, false);
    builder.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    builder.append(SqlInfo::FlightSqlServerCancel, true);
    builder.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    builder.build()
}

/// The types that columns have.
pub(crate) fn types() -> Result<XdbcTypeInfoData, FlightError> {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    let types = [
        ("BOOLEAN", XdbcDataType::XdbcBit, Some(1), None),
        ("INT", XdbcDataType::XdbcInteger, Some(32), None),
        ("BIGINT", XdbcDataType::XdbcBigint, Some(64), None),
        ("DOUBLE", XdbcDataType::XdbcDouble, Some(53), None),
        ("VARCHAR", XdbcDataType::XdbcVarchar, None, Some("'")),
        ("BYTEA", XdbcDataType::XdbcVarbinary, None, Some("'")),
        ("TIMESTAMP", XdbcDataType::XdbcTimestamp, Some(9), Some("'")),
    ];
    for (name, data_type, column_size, quote) in types {
        builder.append(XdbcTypeInfo {
            type_name: name.to_owned(),
            data_type,
            column_size,
            literal_prefix: quote.map(str::to_owned),
            literal_suffix: quote.map(str::to_owned),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: quote.is_some(),
            searchable: Searchable::Full,
            sql_data_type: data_type,
            ..XdbcTypeInfo::default()
        });
    }
    builder.build()
}
