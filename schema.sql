-- The database of a relay, as it is now: what a new relay.db is made from.
-- relay_tornado/storage/migrations/ leads older files to the same schema, and a test holds both against each other.
-- A new file is set to auto_vacuum = INCREMENTAL and journal_mode = WAL before this runs.

-- One row about the file. `id` names this database for good; `commits` grows with every write transaction and
-- `appended` with every event, so that relay.witness can prove that committed work is gone; `version` is the relay
-- that opened the file last.
CREATE TABLE meta (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    id TEXT NOT NULL,
    commits INTEGER NOT NULL,
    appended INTEGER NOT NULL,
    created_at REAL NOT NULL,
    version TEXT NOT NULL
) STRICT;

-- The registry: records as JSON documents (model.to_document); a bucket's document holds its inputs.
CREATE TABLE bucket (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    document TEXT NOT NULL CHECK (json_valid(document))
) STRICT;

-- Claims an input's id, which is unique over all buckets.
CREATE TABLE input (
    id TEXT PRIMARY KEY,
    bucket TEXT NOT NULL REFERENCES bucket (id) ON DELETE CASCADE
) STRICT;

CREATE INDEX input_bucket ON input (bucket);

CREATE TABLE token (
    key TEXT PRIMARY KEY,
    secret_hash TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    document TEXT NOT NULL CHECK (json_valid(document))
) STRICT;

-- One log a bucket. `first` is the oldest seq kept, `head` the newest committed (never MAX(seq): rows leave),
-- `bytes` the sizes of the events first to head, `last_at` the newest received_at. A dropped log waits until its rows
-- are deleted; its bucket may have another one meanwhile. Ids are never used twice.
CREATE TABLE log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    bucket TEXT NOT NULL,
    dropped INTEGER NOT NULL DEFAULT 0 CHECK (dropped IN (0, 1)),
    first INTEGER NOT NULL DEFAULT 1 CHECK (first BETWEEN 1 AND head + 1),
    head INTEGER NOT NULL DEFAULT 0 CHECK (head >= 0),
    bytes INTEGER NOT NULL DEFAULT 0 CHECK (bytes >= 0),
    last_at REAL NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX log_bucket ON log (bucket) WHERE dropped = 0;

-- The stretches of a log: an epoch begins at `from_seq` and ends where the next one begins.
CREATE TABLE epoch (
    epoch TEXT PRIMARY KEY,
    log INTEGER NOT NULL REFERENCES log (id) ON DELETE CASCADE,
    from_seq INTEGER NOT NULL CHECK (from_seq >= 1)
) STRICT;

CREATE INDEX epoch_log ON epoch (log, from_seq);

-- The events. `size` is the bytes of path, query, headers and body; `crc` a CRC32 of the content (log/rows.py). A row
-- whose size is more than what stands in it is the stub of an ephemeral event, whose content was in memory only.
-- Small columns stand before big ones, so that sizes are summed without reading the pages of bodies. `resend_of` is
-- the id of the event that it is a copy of, `target` the number of the one output that the copy goes to, `force`
-- whether rules are passed over; `verified` the verdict on its signature (NULL: none was checked), `verdict` why.
CREATE TABLE event (
    log INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    size INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    received_at REAL NOT NULL,
    input_id TEXT NOT NULL,
    method TEXT NOT NULL,
    path BLOB NOT NULL,
    query BLOB NOT NULL,
    headers BLOB NOT NULL,
    remote_ip TEXT NOT NULL,
    body BLOB NOT NULL,
    resend_of TEXT,
    target INTEGER,
    force INTEGER NOT NULL DEFAULT 0 CHECK (force IN (0, 1)),
    verified INTEGER CHECK (verified IN (0, 1)),
    verdict TEXT NOT NULL DEFAULT '',
    UNIQUE (log, seq)
) STRICT;

-- What was appended under a digest, and when, so that a repeat is recognised; `until` is when the row may leave.
CREATE TABLE dedupe (
    log INTEGER NOT NULL,
    hash BLOB NOT NULL,
    seq INTEGER NOT NULL,
    at REAL NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (log, hash)
) STRICT, WITHOUT ROWID;

CREATE INDEX dedupe_until ON dedupe (log, until);

-- What became of events: one row whenever something was tried or answered, in this order. `output` is the number of
-- the copy, 0 where there is none; `status_code` 0 where nobody answered. The rows of an event leave after it.
CREATE TABLE delivery (
    id INTEGER PRIMARY KEY,
    log INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    output INTEGER NOT NULL,
    at REAL NOT NULL,
    status TEXT NOT NULL,
    status_code INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE INDEX delivery_event ON delivery (log, seq, output);

-- Positions that the relay keeps: everything up to `floor` is done with.
CREATE TABLE consumer (
    log INTEGER NOT NULL REFERENCES log (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    output INTEGER NOT NULL,
    floor INTEGER NOT NULL CHECK (floor >= 0),
    PRIMARY KEY (log, name, output)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER delivery_insert BEFORE INSERT ON delivery
WHEN NOT EXISTS (SELECT 1 FROM log WHERE id = NEW.log AND dropped = 0 AND NEW.seq BETWEEN first AND head)
BEGIN
    SELECT RAISE(ABORT, 'a delivery belongs to an event that its log holds');
END;

-- Events are append-only.
CREATE TRIGGER event_update BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'events are append-only: an event is never changed; append another one');
END;

CREATE TRIGGER event_delete BEFORE DELETE ON event
WHEN OLD.seq >= (SELECT first FROM log WHERE id = OLD.log)
BEGIN
    SELECT RAISE(ABORT, 'events are append-only: raise the first of its log beyond an event before deleting it');
END;

CREATE TRIGGER event_insert BEFORE INSERT ON event
WHEN NEW.seq <= coalesce((SELECT head FROM log WHERE id = NEW.log AND dropped = 0), NEW.seq)
BEGIN
    SELECT RAISE(ABORT, 'events are append-only: a new event needs a log, and a seq above its head');
END;

CREATE TRIGGER log_update BEFORE UPDATE ON log
WHEN NEW.id <> OLD.id OR NEW.bucket <> OLD.bucket OR NEW.dropped < OLD.dropped
    OR NEW.first < OLD.first OR NEW.head < OLD.head OR NEW.last_at < OLD.last_at
BEGIN
    SELECT RAISE(ABORT, 'a log only grows: first, head and last_at never go back');
END;

CREATE TRIGGER log_delete BEFORE DELETE ON log
WHEN OLD.dropped = 0 OR EXISTS (SELECT 1 FROM event WHERE log = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'a log is deleted only after it was dropped and its events are gone');
END;

PRAGMA user_version = 2;
