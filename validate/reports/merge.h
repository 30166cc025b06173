/* merge.h - the reports of the shards of one run (`validate run --shard I/N`) as the report of the
 * whole run. */
#ifndef IFA_VALIDATE_MERGE_H
#define IFA_VALIDATE_MERGE_H

#include "validate/reports/files.h"

/* *merged (to be released): the first one's head, the sums of the counts, all results, shard after
 * shard. The documents have passed ifa_report_kind_of. IFA_BAD_FILE, and which: not the report of
 * `run`, another version or contract, a shard that is missing, there twice or of another number,
 * shards beside a report that is none (reports without shards may be merged as well). */
ifa_status ifa_reports_merge(json_t *const *documents, const char *const *paths, size_t count,
                             json_t **merged, ifa_message *message);

/* How `validate run` would have ended, from a report's counts: 0, 1, 2 or 3. */
int ifa_report_json_exit_code(const json_t *json);

/* The line with which it would have ended: "12 passed, 0 failed, ...". */
void ifa_report_json_print_counts(FILE *to, const json_t *json);

#endif
