#include "validate/reports/merge.h"

#include <stdlib.h>
#include <string.h>

#include "validate/judge/compare.h"
#include "validate/text/visible.h"

static json_int_t integer(const json_t *object, const char *key) {
  return json_integer_value(json_object_get(object, key));
}

/* 0 where there is none. */
static json_int_t shard_of(const json_t *document, json_int_t *of) {
  const json_t *shard = json_object_get(document, "shard");
  *of = integer(shard, "of");
  return integer(shard, "index");
}

static ifa_status check_alike(json_t *const *documents, const char *const *paths, size_t i,
                              ifa_message *message) {
  ifa_report_kind kind;
  json_int_t of, first_of;
  ifa_status status = ifa_report_kind_of(documents[i], paths[i], &kind, message);
  if (status != IFA_OK) return status;
  if (kind != IFA_REPORT_RUN)
    return ifa_fail(message, IFA_BAD_FILE, "%s: a report of %s; only those of run are merged",
                    ifa_shorten(paths[i]).text, ifa_report_kind_name(kind));
  if (integer(documents[i], "contract") != integer(documents[0], "contract") ||
      strcmp(ifa_json_text(documents[i], "version"), ifa_json_text(documents[0], "version")) != 0)
    return ifa_fail(message, IFA_BAD_FILE, "%s: of another version or contract than %s",
                    ifa_shorten(paths[i]).text, ifa_shorten(paths[0]).text);
  json_int_t index = shard_of(documents[i], &of);
  shard_of(documents[0], &first_of);
  if (of != first_of || (of != 0 && (index < 1 || index > of)))
    return ifa_fail(message, IFA_BAD_FILE, "%s: shard %lld of %lld, beside shards of %lld",
                    ifa_shorten(paths[i]).text, (long long)index, (long long)of,
                    (long long)first_of);
  return IFA_OK;
}

/* Each shard once. */
static ifa_status check_complete(json_t *const *documents, const char *const *paths, size_t count,
                                 ifa_message *message) {
  json_int_t of, shards;
  shard_of(documents[0], &shards);
  for (json_int_t wanted = 1; wanted <= shards; wanted++) {
    size_t found = count;
    for (size_t i = 0; i < count; i++) {
      if (shard_of(documents[i], &of) != wanted) continue;
      if (found < count)
        return ifa_fail(message, IFA_BAD_FILE, "%s: shard %lld of %lld is there twice",
                        ifa_shorten(paths[i]).text, (long long)wanted, (long long)shards);
      found = i;
    }
    if (found == count)
      return ifa_fail(message, IFA_BAD_FILE, "shard %lld of %lld is missing", (long long)wanted,
                      (long long)shards);
  }
  return IFA_OK;
}

static int add_counts(json_t *sums, const json_t *counts) {
  const char *name;
  json_t *value;
  int failed = 0;
  json_object_foreach((json_t *)counts, name, value) failed |= json_object_set_new(
      sums, name, json_integer(integer(sums, name) + json_integer_value(value)));
  return failed;
}

/* All documents' lists of that name as one. */
static int join_lists(json_t *const *documents, size_t count, const char *name, json_t *whole) {
  json_t *all = json_array();
  int failed = !all;
  for (size_t i = 0; i < count && !failed; i++) {
    json_t *list = json_object_get(documents[i], name);
    failed = json_is_array(list) && json_array_extend(all, list);
  }
  return json_object_set_new(whole, name, all) || failed;
}

ifa_status ifa_reports_merge(json_t *const *documents, const char *const *paths, size_t count,
                             json_t **merged, ifa_message *message) {
  static const char *const lists[] = {"results", "invalid", "diagnoses"};
  *merged = NULL;
  for (size_t i = 0; i < count; i++) {
    ifa_status status = check_alike(documents, paths, i, message);
    if (status != IFA_OK) return status;
  }
  ifa_status status = check_complete(documents, paths, count, message);
  if (status != IFA_OK) return status;
  json_t *whole = json_copy(documents[0]), *counts = json_object();
  int failed = !whole || !counts;
  for (size_t i = 0; i < count && !failed; i++)
    failed = add_counts(counts, json_object_get(documents[i], "counts"));
  for (size_t n = 0; n < sizeof lists / sizeof lists[0] && !failed; n++)
    failed = join_lists(documents, count, lists[n], whole);
  if (!failed) {
    json_object_del(whole, "shard");
    failed = json_object_set(whole, "counts", counts);
  }
  json_decref(counts);
  if (!failed) *merged = whole;
  else json_decref(whole);
  return failed ? ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the merged report") : IFA_OK;
}

int ifa_report_json_exit_code(const json_t *json) {
  enum { AGREE, MISMATCH, BAD_USAGE, NOTHING_RUN };
  const json_t *counts = json_object_get(json, "counts");
  for (int v = 0; v < IFA_VERDICTS; v++)
    if (ifa_verdict_is_failure((ifa_verdict)v) &&
        integer(counts, ifa_verdict_name((ifa_verdict)v)) > 0)
      return MISMATCH;
  if (integer(counts, "invalid") > 0) return BAD_USAGE;
  return integer(counts, ifa_verdict_name(IFA_PASSED)) > 0 ? AGREE : NOTHING_RUN;
}

void ifa_report_json_print_counts(FILE *to, const json_t *json) {
  const json_t *counts = json_object_get(json, "counts");
  for (int v = 0; v < IFA_VERDICTS; v++) {
    json_int_t n = integer(counts, ifa_verdict_name((ifa_verdict)v));
    if (v <= IFA_ABSENT || n > 0)
      fprintf(to, "%s%lld %s", v ? ", " : "", (long long)n, ifa_verdict_name((ifa_verdict)v));
  }
  if (integer(counts, "invalid") > 0)
    fprintf(to, ", %lld invalid", (long long)integer(counts, "invalid"));
  if (integer(counts, "not run") > 0)
    fprintf(to, "; %lld cases not run", (long long)integer(counts, "not run"));
  fprintf(to, "\n");
}
