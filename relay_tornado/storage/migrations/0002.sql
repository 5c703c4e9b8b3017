-- What an event is a copy of and who gets it, what its signature said; what became of events; who drains a log.

ALTER TABLE event ADD COLUMN resend_of TEXT;
ALTER TABLE event ADD COLUMN target INTEGER;
ALTER TABLE event ADD COLUMN force INTEGER NOT NULL DEFAULT 0 CHECK (force IN (0, 1));
ALTER TABLE event ADD COLUMN verified INTEGER CHECK (verified IN (0, 1));
ALTER TABLE event ADD COLUMN verdict TEXT NOT NULL DEFAULT '';

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

PRAGMA user_version = 2;
