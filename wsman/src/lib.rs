//! WS-Management (WS-Man) for WMI classes: a client for licensed hosts, and the server side that rehearsal hosts show.
