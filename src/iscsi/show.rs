//! Any PDU printed in one line, for logs and test transcripts.
