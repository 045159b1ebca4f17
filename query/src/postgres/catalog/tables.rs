//! The tables of `pg_catalog` and `information_schema`, as queries over the base tables; and those that are always empty,
//! by their columns.
//!
//! A table is here because a client asks for it: psql for its lists, Grafana for its editor, drivers for their types.

use super::PG_CATALOG;

/// The schema of SQL's own catalog.
pub(super) const INFORMATION_SCHEMA: &str = "information_schema";

/// Schemas, names and definitions.
const DEFINED: &[(&str, &str, &str)] = &[
    (
        PG_CATALOG,
        "pg_namespace",
        "SELECT CAST(oid AS INT UNSIGNED) AS oid, nspname, CAST(10 AS INT UNSIGNED) AS nspowner, CAST(NULL AS TEXT[]) AS nspacl \
      FROM (VALUES (11, 'pg_catalog'), (2200, 'public'), (13000, 'information_schema')) AS n(oid, nspname)",
    ),
    (
        PG_CATALOG,
        "pg_class",
        "SELECT oid, name AS relname, CAST(2200 AS INT UNSIGNED) AS relnamespace, CAST(0 AS INT UNSIGNED) AS reltype, \
      CAST(0 AS INT UNSIGNED) AS reloftype, CAST(10 AS INT UNSIGNED) AS relowner, CAST(0 AS INT UNSIGNED) AS relam, \
      CAST(0 AS INT UNSIGNED) AS relfilenode, CAST(0 AS INT UNSIGNED) AS reltablespace, CAST(0 AS INT) AS relpages, CAST(-1 AS REAL) AS reltuples, \
      CAST(0 AS INT) AS relallvisible, CAST(0 AS INT UNSIGNED) AS reltoastrelid, false AS relhasindex, false AS relisshared, 'p' AS relpersistence, \
      kind AS relkind, columns AS relnatts, CAST(0 AS SMALLINT) AS relchecks, false AS relhasrules, false AS relhastriggers, false AS relhassubclass, \
      false AS relrowsecurity, false AS relforcerowsecurity, true AS relispopulated, 'n' AS relreplident, false AS relispartition, \
      CAST(0 AS INT UNSIGNED) AS relrewrite, CAST(NULL AS TEXT[]) AS relacl, CAST(NULL AS TEXT[]) AS reloptions, CAST(NULL AS TEXT) AS relpartbound \
      FROM base.relations",
    ),
    (
        PG_CATALOG,
        "pg_attribute",
        "SELECT relation AS attrelid, name AS attname, type AS atttypid, CAST(-1 AS INT) AS attstattarget, length AS attlen, \
      number AS attnum, CAST(0 AS INT) AS attndims, CAST(-1 AS INT) AS attcacheoff, CAST(-1 AS INT) AS atttypmod, false AS attbyval, \
      nullable = 'NO' AS attnotnull, false AS atthasdef, false AS atthasmissing, '' AS attidentity, '' AS attgenerated, false AS attisdropped, \
      true AS attislocal, CAST(0 AS INT) AS attinhcount, CAST(0 AS INT UNSIGNED) AS attcollation, 'x' AS attstorage, '' AS attcompression, \
      CAST(NULL AS TEXT[]) AS attacl, CAST(NULL AS TEXT[]) AS attoptions, CAST(NULL AS TEXT[]) AS attfdwoptions FROM base.columns",
    ),
    (
        PG_CATALOG,
        "pg_type",
        "SELECT oid, name AS typname, CAST(11 AS INT UNSIGNED) AS typnamespace, CAST(10 AS INT UNSIGNED) AS typowner, \
      length AS typlen, length > 0 AS typbyval, 'b' AS typtype, category AS typcategory, false AS typispreferred, true AS typisdefined, ',' AS typdelim, \
      CAST(0 AS INT UNSIGNED) AS typrelid, '-' AS typsubscript, element AS typelem, array AS typarray, concat(name, 'in') AS typinput, \
      concat(name, 'out') AS typoutput, concat(name, 'recv') AS typreceive, concat(name, 'send') AS typsend, false AS typnotnull, \
      CAST(0 AS INT UNSIGNED) AS typbasetype, CAST(-1 AS INT) AS typtypmod, CAST(0 AS INT) AS typndims, CAST(0 AS INT UNSIGNED) AS typcollation, \
      CAST(NULL AS TEXT) AS typdefault, CAST(NULL AS TEXT[]) AS typacl FROM base.types",
    ),
    (
        PG_CATALOG,
        "pg_database",
        "SELECT CAST(5 AS INT UNSIGNED) AS oid, 'lariat' AS datname, CAST(10 AS INT UNSIGNED) AS datdba, CAST(6 AS INT) AS encoding, \
      'c' AS datlocprovider, false AS datistemplate, true AS datallowconn, CAST(-1 AS INT) AS datconnlimit, 'C.UTF-8' AS datcollate, 'C.UTF-8' AS datctype, \
      CAST(NULL AS TEXT) AS daticulocale, CAST(NULL AS TEXT) AS datcollversion, CAST(1663 AS INT UNSIGNED) AS dattablespace, CAST(NULL AS TEXT[]) AS datacl",
    ),
    (
        PG_CATALOG,
        "pg_roles",
        "SELECT CAST(10 AS INT UNSIGNED) AS oid, usename AS rolname, false AS rolsuper, true AS rolinherit, false AS rolcreaterole, \
      false AS rolcreatedb, true AS rolcanlogin, false AS rolreplication, false AS rolbypassrls, CAST(-1 AS INT) AS rolconnlimit, \
      CAST(NULL AS TIMESTAMP) AS rolvaliduntil, CAST(NULL AS TEXT[]) AS rolconfig FROM base.session",
    ),
    (
        PG_CATALOG,
        "pg_user",
        "SELECT usename, CAST(10 AS INT UNSIGNED) AS usesysid, false AS usecreatedb, false AS usesuper FROM base.session",
    ),
    (
        PG_CATALOG,
        "pg_settings",
        "SELECT name, setting, CAST(NULL AS TEXT) AS unit, 'Lariat' AS category, '' AS short_desc, 'user' AS context, \
      'string' AS vartype, 'session' AS source, setting AS reset_val, false AS pending_restart FROM base.settings",
    ),
    (
        PG_CATALOG,
        "pg_am",
        "SELECT CAST(2 AS INT UNSIGNED) AS oid, 'heap' AS amname, 'heap_tableam_handler' AS amhandler, 't' AS amtype",
    ),
    (
        PG_CATALOG,
        "pg_tablespace",
        "SELECT CAST(1663 AS INT UNSIGNED) AS oid, 'pg_default' AS spcname, CAST(10 AS INT UNSIGNED) AS spcowner, \
      CAST(NULL AS TEXT[]) AS spcacl, CAST(NULL AS TEXT[]) AS spcoptions",
    ),
    (
        PG_CATALOG,
        "pg_tables",
        "SELECT 'public' AS schemaname, name AS tablename, 'lariat' AS tableowner, CAST(NULL AS TEXT) AS tablespace, \
      false AS hasindexes, false AS hasrules, false AS hastriggers, false AS rowsecurity FROM base.relations WHERE kind = 'r'",
    ),
    (
        PG_CATALOG,
        "pg_views",
        "SELECT 'public' AS schemaname, name AS viewname, 'lariat' AS viewowner, '' AS definition FROM base.relations WHERE kind = 'v'",
    ),
    (
        INFORMATION_SCHEMA,
        "schemata",
        "SELECT 'lariat' AS catalog_name, nspname AS schema_name, 'lariat' AS schema_owner \
      FROM (VALUES ('pg_catalog'), ('public'), ('information_schema')) AS n(nspname)",
    ),
    (
        INFORMATION_SCHEMA,
        "tables",
        "SELECT 'lariat' AS table_catalog, 'public' AS table_schema, name AS table_name, \
      CASE kind WHEN 'r' THEN 'BASE TABLE' ELSE 'VIEW' END AS table_type, 'NO' AS is_insertable_into, 'NO' AS is_typed FROM base.relations",
    ),
    (
        INFORMATION_SCHEMA,
        "views",
        "SELECT 'lariat' AS table_catalog, 'public' AS table_schema, name AS table_name, '' AS view_definition, \
      'NONE' AS check_option, 'NO' AS is_updatable FROM base.relations WHERE kind = 'v'",
    ),
    (
        INFORMATION_SCHEMA,
        "columns",
        "SELECT 'lariat' AS table_catalog, 'public' AS table_schema, relation_name AS table_name, name AS column_name, \
      CAST(number AS INT) AS ordinal_position, CAST(NULL AS TEXT) AS column_default, nullable AS is_nullable, type_name AS data_type, \
      CAST(NULL AS INT) AS character_maximum_length, CAST(NULL AS INT) AS character_octet_length, CAST(NULL AS INT) AS numeric_precision, \
      CAST(NULL AS INT) AS numeric_scale, CAST(NULL AS INT) AS datetime_precision, 'lariat' AS udt_catalog, 'pg_catalog' AS udt_schema, udt_name, \
      'NO' AS is_identity, 'NEVER' AS is_generated, 'NO' AS is_updatable FROM base.columns",
    ),
];

/// Tables that never have a row, and their columns: `o` an object id, `s` and `i` numbers, `b` a truth, else text.
const EMPTY: &[(&str, &str, &str)] = &[
    (PG_CATALOG, "pg_attrdef", "oid:o adrelid:o adnum:s adbin"),
    (PG_CATALOG, "pg_auth_members", "roleid:o member:o grantor:o admin_option:b"),
    (PG_CATALOG, "pg_available_extensions", "name default_version installed_version comment"),
    (PG_CATALOG, "pg_collation", "oid:o collname collnamespace:o collowner:o collprovider collencoding:i"),
    (
        PG_CATALOG,
        "pg_constraint",
        "oid:o conname connamespace:o contype condeferrable:b condeferred:b convalidated:b conrelid:o contypid:o \
      conindid:o conparentid:o confrelid:o conislocal:b connoinherit:b conkey confkey conbin",
    ),
    (PG_CATALOG, "pg_depend", "classid:o objid:o objsubid:i refclassid:o refobjid:o refobjsubid:i deptype"),
    (PG_CATALOG, "pg_description", "objoid:o classoid:o objsubid:i description"),
    (PG_CATALOG, "pg_enum", "oid:o enumtypid:o enumsortorder:i enumlabel"),
    (PG_CATALOG, "pg_event_trigger", "oid:o evtname evtevent evtowner:o evtfoid:o evtenabled evttags"),
    (PG_CATALOG, "pg_extension", "oid:o extname extowner:o extnamespace:o extrelocatable:b extversion"),
    (PG_CATALOG, "pg_foreign_data_wrapper", "oid:o fdwname fdwowner:o"),
    (PG_CATALOG, "pg_foreign_server", "oid:o srvname srvowner:o srvfdw:o srvoptions"),
    (PG_CATALOG, "pg_foreign_table", "ftrelid:o ftserver:o ftoptions"),
    (
        PG_CATALOG,
        "pg_index",
        "indexrelid:o indrelid:o indnatts:s indnkeyatts:s indisunique:b indisprimary:b indisexclusion:b indimmediate:b \
      indisclustered:b indisvalid:b indisready:b indislive:b indisreplident:b indkey indoption indexprs indpred",
    ),
    (PG_CATALOG, "pg_indexes", "schemaname tablename indexname tablespace indexdef"),
    (PG_CATALOG, "pg_inherits", "inhrelid:o inhparent:o inhseqno:i inhdetachpending:b"),
    (PG_CATALOG, "pg_language", "oid:o lanname lanowner:o lanispl:b lanpltrusted:b"),
    (PG_CATALOG, "pg_matviews", "schemaname matviewname matviewowner definition"),
    (PG_CATALOG, "pg_opclass", "oid:o opcmethod:o opcname opcnamespace:o opcowner:o"),
    (PG_CATALOG, "pg_partitioned_table", "partrelid:o partstrat partnatts:s"),
    (PG_CATALOG, "pg_policy", "oid:o polname polrelid:o polcmd polpermissive:b polroles polqual polwithcheck"),
    (
        PG_CATALOG,
        "pg_proc",
        "oid:o proname pronamespace:o proowner:o prolang:o prokind proretset:b prorettype:o pronargs:s proargtypes prosrc",
    ),
    (
        PG_CATALOG,
        "pg_publication",
        "oid:o pubname pubowner:o puballtables:b pubinsert:b pubupdate:b pubdelete:b pubtruncate:b pubviaroot:b",
    ),
    (PG_CATALOG, "pg_publication_namespace", "oid:o pnpubid:o pnnspid:o"),
    (PG_CATALOG, "pg_publication_rel", "oid:o prpubid:o prrelid:o prqual prattrs"),
    (PG_CATALOG, "pg_range", "rngtypid:o rngsubtype:o rngmultitypid:o rngcollation:o rngsubopc:o"),
    (PG_CATALOG, "pg_rewrite", "oid:o rulename ev_class:o ev_type ev_enabled is_instead:b"),
    (
        PG_CATALOG,
        "pg_sequence",
        "seqrelid:o seqtypid:o seqstart:i seqincrement:i seqmax:i seqmin:i seqcache:i seqcycle:b",
    ),
    (PG_CATALOG, "pg_shdescription", "objoid:o classoid:o description"),
    (PG_CATALOG, "pg_stat_activity", "datid:o datname pid:i usename application_name state query"),
    (PG_CATALOG, "pg_stat_user_tables", "relid:o schemaname relname n_live_tup:i"),
    (
        PG_CATALOG,
        "pg_statistic_ext",
        "oid:o stxrelid:o stxname stxnamespace:o stxowner:o stxstattarget:i stxkeys stxkind",
    ),
    (PG_CATALOG, "pg_subscription", "oid:o subname subowner:o subenabled:b"),
    (
        PG_CATALOG,
        "pg_trigger",
        "oid:o tgrelid:o tgparentid:o tgname tgfoid:o tgtype:s tgenabled tgisinternal:b tgconstraint:o",
    ),
    (
        INFORMATION_SCHEMA,
        "key_column_usage",
        "constraint_catalog constraint_schema constraint_name table_catalog table_schema table_name column_name ordinal_position:i",
    ),
    (
        INFORMATION_SCHEMA,
        "referential_constraints",
        "constraint_catalog constraint_schema constraint_name unique_constraint_schema unique_constraint_name",
    ),
    (INFORMATION_SCHEMA, "routines", "routine_catalog routine_schema routine_name routine_type data_type"),
    (INFORMATION_SCHEMA, "sequences", "sequence_catalog sequence_schema sequence_name"),
    (
        INFORMATION_SCHEMA,
        "table_constraints",
        "constraint_catalog constraint_schema constraint_name table_catalog table_schema table_name constraint_type",
    ),
];

/// The definition of a table: its schema, its name and its query.
pub(super) fn find(schema: Option<&str>, name: &str) -> Option<(&'static str, &'static str, String)> {
    // Names without a schema are those of Postgres's own.
    let wanted = schema.unwrap_or(PG_CATALOG);
    let of = |entry: &&(&'static str, &'static str, &'static str)| entry.0 == wanted && entry.1 == name;
    let defined = DEFINED.iter().find(of).map(|(schema, name, sql)| (*schema, *name, (*sql).to_owned()));
    defined.or_else(|| EMPTY.iter().find(of).map(|(schema, name, columns)| (*schema, *name, empty(columns))))
}

/// Whether a table never has a row.
pub(super) fn is_empty(name: &str) -> bool {
    EMPTY.iter().any(|(_, of, _)| *of == name)
}

fn empty(columns: &str) -> String {
    let column = |word: &str| {
        let (name, of) = word.split_once(':').unwrap_or((word, "t"));
        let of = match of {
            "o" => "INT UNSIGNED",
            "s" => "SMALLINT",
            "i" => "BIGINT",
            "b" => "BOOLEAN",
            _ => "TEXT",
        };
        format!("CAST(NULL AS {of}) AS {name}")
    };
    let columns: Vec<String> = columns.split_ascii_whitespace().map(column).collect();
    format!("SELECT {} WHERE false", columns.join(", "))
}
