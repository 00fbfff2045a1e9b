//! Whole-system tests on real parts: one program, so that what all of them need is linked once.
//!
//! Each module starts its own servers on unused ports. One whose server can't be had says `SKIPPED` and why.

#![cfg(test)]

mod admits_whom_it_may_and_no_more;
mod behind_haproxy;
mod check_reads_the_files;
mod dns_life;
mod dns_operator;
mod dns_updates;
mod doctor_says_why;
mod five_clients_over_three_replicas_reach_five;
mod install_chart;
mod install_images;
mod install_manifests;
mod install_on_api_server;
mod install_on_node;
mod install_traces;
mod install_upgrade;
mod kmsctl_among_servers;
mod kubectl_plugin;
mod ledger_behaviour;
mod ledger_outages;
mod licensing_journal;
mod licensing_operator;
mod licensing_rehearsal;
mod licensing_weather;
mod monitoring;
mod operator_anywhere;
mod operator_api_rules;
mod operator_changes;
mod operator_failures;
mod operator_leader;
mod operator_life;
mod operator_managed_ledger;
mod operator_rights;
mod people_see_the_page;
mod rehearsal_processes;
mod relays_to_rehearsal_hosts;
mod relays_to_samba;
mod relays_what_the_licensed_host_answered;
mod routing_fleet;
mod routing_processes;
mod rpc_dissected;
mod rpc_peers;
mod takes_over_changes_and_drains;
