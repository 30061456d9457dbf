CREATE TABLE attempt (
    id INTEGER NOT NULL,
    lane BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    record TEXT NOT NULL,
    route TEXT NOT NULL,
    system TEXT NOT NULL,
    token BIGINT NOT NULL,
    kind TEXT NOT NULL,
    outcome TEXT NOT NULL,
    code TEXT NOT NULL,
    detail TEXT NOT NULL,
    reference TEXT,
    began_us BIGINT DEFAULT 0 NOT NULL,
    took_us BIGINT NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE call_share (
    system TEXT NOT NULL,
    worker TEXT NOT NULL,
    wanted INTEGER NOT NULL,
    held INTEGER NOT NULL,
    until_us BIGINT DEFAULT 0 NOT NULL,
    PRIMARY KEY (system, worker)
);

CREATE TABLE cursor (
    route TEXT NOT NULL,
    cursor TEXT NOT NULL,
    version BIGINT DEFAULT 0 NOT NULL,
    moved_us BIGINT DEFAULT 0 NOT NULL,
    complete_us BIGINT DEFAULT 0 NOT NULL,
    own_lanes SMALLINT DEFAULT 0 NOT NULL,
    PRIMARY KEY (route)
);

CREATE TABLE event (
    id INTEGER NOT NULL,
    name TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    at_us BIGINT DEFAULT 0 NOT NULL,
    announced_us BIGINT DEFAULT 0 NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE failover_group (
    name TEXT NOT NULL,
    version BIGINT DEFAULT 0 NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE lane (
    id BIGINT NOT NULL,
    route TEXT NOT NULL,
    "key" TEXT NOT NULL,
    born_us BIGINT DEFAULT 0 NOT NULL,
    last_seq BIGINT NOT NULL,
    done_seq BIGINT NOT NULL,
    last_hash BLOB NOT NULL,
    state SMALLINT NOT NULL,
    priority SMALLINT DEFAULT 3 NOT NULL,
    due_us BIGINT DEFAULT 0 NOT NULL,
    lease_until_us BIGINT DEFAULT 0 NOT NULL,
    token BIGINT DEFAULT 0 NOT NULL,
    system TEXT DEFAULT '' NOT NULL,
    avoid TEXT DEFAULT '' NOT NULL,
    in_doubt INTEGER DEFAULT 0 NOT NULL,
    doubted_us BIGINT DEFAULT 0 NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE ledger (
    id INTEGER NOT NULL,
    route TEXT NOT NULL,
    at_us BIGINT DEFAULT 0 NOT NULL,
    staged BIGINT DEFAULT 0 NOT NULL,
    delivered BIGINT DEFAULT 0 NOT NULL,
    parked BIGINT DEFAULT 0 NOT NULL,
    superseded BIGINT DEFAULT 0 NOT NULL,
    push TEXT,
    PRIMARY KEY (id)
);

CREATE TABLE outage (
    id INTEGER NOT NULL,
    system TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    first_failure_us BIGINT DEFAULT 0 NOT NULL,
    opened_us BIGINT DEFAULT 0 NOT NULL,
    restored_us BIGINT DEFAULT 0 NOT NULL,
    drained_us BIGINT DEFAULT 0 NOT NULL,
    backlog BIGINT DEFAULT 0 NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE parked (
    id INTEGER NOT NULL,
    record TEXT NOT NULL,
    route TEXT NOT NULL,
    lane BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    "key" TEXT NOT NULL,
    system TEXT NOT NULL,
    code TEXT NOT NULL,
    detail TEXT NOT NULL,
    payload BLOB NOT NULL,
    in_doubt BOOLEAN NOT NULL,
    holds BOOLEAN NOT NULL,
    at_intake BOOLEAN NOT NULL,
    staged_us BIGINT DEFAULT 0 NOT NULL,
    parked_us BIGINT DEFAULT 0 NOT NULL,
    closed_us BIGINT DEFAULT 0 NOT NULL,
    closing TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE quota (
    system TEXT NOT NULL,
    name TEXT NOT NULL,
    used BIGINT DEFAULT 0 NOT NULL,
    until_us BIGINT DEFAULT 0 NOT NULL,
    parts TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (system, name)
);

CREATE TABLE reconciliation (
    id INTEGER NOT NULL,
    failover_group TEXT NOT NULL,
    route TEXT NOT NULL,
    lane BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    record TEXT NOT NULL,
    "key" TEXT NOT NULL,
    system TEXT NOT NULL,
    doubted_us BIGINT DEFAULT 0 NOT NULL,
    opened_us BIGINT DEFAULT 0 NOT NULL,
    due_us BIGINT DEFAULT 0 NOT NULL,
    lease_until_us BIGINT DEFAULT 0 NOT NULL,
    token BIGINT DEFAULT 0 NOT NULL,
    misses INTEGER DEFAULT 0 NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    state TEXT DEFAULT 'open' NOT NULL,
    reference TEXT,
    other_system TEXT DEFAULT '' NOT NULL,
    other_reference TEXT,
    detail TEXT DEFAULT '' NOT NULL,
    author TEXT DEFAULT '' NOT NULL,
    closed_us BIGINT DEFAULT 0 NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE record (
    lane BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    id TEXT NOT NULL,
    "key" TEXT NOT NULL,
    staged_us BIGINT DEFAULT 0 NOT NULL,
    payload BLOB NOT NULL,
    parent TEXT,
    PRIMARY KEY (lane, seq)
);

CREATE TABLE served_revision (
    revision TEXT NOT NULL,
    PRIMARY KEY (revision)
);

CREATE TABLE system (
    name TEXT NOT NULL,
    version BIGINT DEFAULT 0 NOT NULL,
    breaker TEXT NOT NULL,
    state TEXT NOT NULL,
    retry_us BIGINT DEFAULT 0 NOT NULL,
    paused_until_us BIGINT DEFAULT 0 NOT NULL,
    prober BIGINT DEFAULT 0 NOT NULL,
    prober_until_us BIGINT DEFAULT 0 NOT NULL,
    throttles INTEGER DEFAULT 0 NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE tideover_schema (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT tideover_schema_pkc PRIMARY KEY (version_num)
);

CREATE TABLE turn (
    id INTEGER NOT NULL,
    failover_group TEXT NOT NULL,
    kind TEXT NOT NULL,
    "before" TEXT NOT NULL,
    "after" TEXT NOT NULL,
    why TEXT NOT NULL,
    author TEXT NOT NULL,
    failed_us BIGINT DEFAULT 0 NOT NULL,
    at_us BIGINT DEFAULT 0 NOT NULL,
    served_us BIGINT DEFAULT 0 NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX attempt_lane ON attempt (lane, seq);

CREATE INDEX event_unannounced ON event (id) WHERE announced_us = 0;

CREATE INDEX lane_drained ON lane (route, due_us, id) WHERE state = 0;

CREATE INDEX lane_waiting ON lane (route, priority, due_us, id) WHERE state = 1;

CREATE INDEX ledger_route ON ledger (route);

CREATE INDEX outage_open ON outage (system) WHERE drained_us = 0;

CREATE INDEX parked_lane ON parked (lane, seq);

CREATE INDEX parked_open ON parked (route, id) WHERE closed_us = 0;

CREATE INDEX reconciliation_lane ON reconciliation (lane);

CREATE INDEX reconciliation_open ON reconciliation (system, due_us) WHERE closed_us = 0;

CREATE INDEX turn_group ON turn (failover_group, id);

