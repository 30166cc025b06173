/* html.c - the page, printed from top to bottom. Text that comes from a document goes through
 * ifa_print_xml, numbers through printf. */
#include "validate/reports/html.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

/* ---- small pieces ---- */

static void put(FILE *to, const char *text) { ifa_print_xml(to, text); }
static void put_member(FILE *to, const json_t *object, const char *key) {
  put(to, ifa_json_text(object, key));
}

/* <td data-label="LABEL">TEXT</td>: on a phone the label stands before the cell. */
static void cell(FILE *to, const char *label, const char *text) {
  fprintf(to, "<td data-label=\"%s\"%s>", label, strlen(text) < 20 ? " class=\"short\"" : "");
  put(to, text);
  fprintf(to, "</td>");
}

static void number_cell(FILE *to, const char *label, double x, const char *format) {
  char text[64];
  snprintf(text, sizeof text, format, x);
  cell(to, label, isnan(x) ? "" : text);
}

static const char style[] =
    ":root{color-scheme:light "
    "dark;--fg:#1b1f24;--bg:#fff;--soft:#f3f5f7;--line:#d5dae0;--good:#116329;--bad:#b3261e;--dim:#"
    "5f6a76;--mark:#0b57d0}"
    "@media(prefers-color-scheme:dark){:root{--fg:#e6e9ed;--bg:#14171b;--soft:#1e2329;--line:#"
    "3a424c;--good:#6fcf83;--bad:#ff8a80;--dim:#9aa5b1;--mark:#8ab4f8}}"
    "*{box-sizing:border-box}body{font:15px/1.45 "
    "system-ui,sans-serif;color:var(--fg);background:var(--bg);margin:0 "
    "auto;padding:1rem;max-width:1200px}"
    "h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px "
    "solid var(--line)}"
    ".verdict{border-left:.5rem solid var(--dim);background:var(--soft);padding:.6rem "
    "1rem;border-radius:.3rem}.verdict.good{border-color:var(--good)}"
    ".verdict.bad{border-color:var(--bad)}.verdict p{margin:.2rem 0}.dim{color:var(--dim)}"
    "pre,code{font:13px/1.4 "
    "ui-monospace,monospace}pre{background:var(--soft);padding:.5rem;border-radius:.3rem;overflow-"
    "x:auto;white-space:pre-wrap;overflow-wrap:anywhere}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem "
    ".5rem;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:break-word}"
    "th{position:sticky;top:0;background:var(--bg)}td.case{font:13px/1.4 "
    "ui-monospace,monospace;overflow-wrap:anywhere}td.short{white-space:nowrap}"
    ".passed,.killed{color:var(--good)}.failure,.survived{color:var(--bad);font-weight:600}.other{"
    "color:var(--dim)}"
    "input[type=radio]{position:absolute;opacity:0}label{display:inline-block;border:1px solid "
    "var(--line);border-radius:1rem;padding:.15rem .7rem;margin:.15rem .2rem .15rem "
    "0;cursor:pointer}"
    "input:focus-visible+label{outline:2px solid "
    "var(--mark)}input:checked+label{background:var(--soft);border-color:var(--mark)}"
    ".only-failure:checked~table tr:not(.r-failure),.only-passed:checked~table "
    "tr:not(.r-passed),.only-other:checked~table tr:not(.r-other),"
    ".only-survived:checked~table tr:not(.r-survived){display:none}thead "
    "tr{display:table-row!important}"
    "[type=search]{font:inherit;padding:.2rem "
    ".5rem;max-width:100%;color:inherit;background:var(--bg);border:1px solid "
    "var(--line);border-radius:.3rem}"
    "svg{max-width:100%;height:auto;display:block}svg text{fill:var(--fg);font:12px "
    "system-ui,sans-serif}svg .grid{stroke:var(--line)}svg .dot{fill:var(--mark);fill-opacity:.65}"
    "svg .ours{font-weight:600}svg .bar{fill:var(--mark);fill-opacity:.55}svg "
    ".limit{stroke:var(--bad);stroke-width:2}svg "
    ".line{fill:none;stroke:var(--mark);stroke-width:1.5}"
    "svg .published{fill:none;stroke:var(--bad);stroke-width:1.5;stroke-dasharray:5 4}"
    "@media(max-width:640px){body{padding:.6rem}table.stack thead,table.stack thead "
    "tr{display:none!important}table.stack tr{display:block;border-bottom:1px solid "
    "var(--line);padding:.3rem 0}"
    "table.stack td{display:block;border:0;padding:.05rem 0}table.stack "
    "td:empty{display:none}table.stack td[data-label]:before{content:attr(data-label) \": "
    "\";color:var(--dim)}"
    ".scroll{overflow-x:auto}.scroll svg{max-width:none}td.short{white-space:normal}}";

/* The filters above work without it; it adds a search box. */
static const char script[] =
    "document.querySelectorAll('[type=search]').forEach(function(box){box.hidden=false;box."
    "addEventListener('input',function(){"
    "var words=box.value.toLowerCase().split(/\\s+/);box.parentNode.querySelectorAll('tbody "
    "tr').forEach(function(row){"
    "var text=row.textContent.toLowerCase();row.hidden=!words.every(function(w){return "
    "text.indexOf(w)>=0})})})})";

static void print_machine(FILE *to, const json_t *json) {
  const json_t *machine = json_object_get(json, "machine");
  fprintf(to, "<p class=\"dim\">");
  put_member(to, machine, "processor");
  fprintf(to, ", ");
  put_member(to, machine, "compiler");
  fprintf(to, ", %.0f threads; ifa ", fmax(ifa_json_value(machine, "threads"), 0));
  put_member(to, json, "version");
  fprintf(to, ", contract %.0f</p>\n", fmax(ifa_json_value(json, "contract"), 0));
}

/* A choice of the rows below it, by style alone. `number` is the document's. */
static void print_filter(FILE *to, size_t number, const char *class, const char *label,
                         size_t count, int chosen) {
  fprintf(to,
          "<input type=\"radio\" name=\"rows-%zu\" id=\"rows-%zu-%s\" class=\"only-%s\"%s/><label "
          "for=\"rows-%zu-%s\">%s %zu</label>\n",
          number, number, class, class, chosen ? " checked=\"\"" : "", number, class, label, count);
}

/* ---- plots: errors as dots on a scale of decades ---- */

enum { LEFT = 230, WIDTH = 900, LINE = 20, TOP = 24 };

static double decade_x(double error, double low, double high) {
  double x = (log10(error) - low) / (high - low);
  return LEFT + (WIDTH - LEFT - 10) * fmin(fmax(x, 0), 1);
}

static void print_scale(FILE *to, int low, int high, int height) {
  for (int decade = low; decade <= high; decade++) {
    double x = decade_x(pow(10, decade), low, high);
    fprintf(to,
            "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/><text x=\"%.1f\" "
            "y=\"14\" text-anchor=\"%s\">1e%d</text>\n",
            x, TOP - 6, x, height, x, decade == high ? "end" : "middle", decade);
  }
}

/* ---- run ---- */

static int is_failure(const char *verdict) {
  return strcmp(verdict, "passed") != 0 && strcmp(verdict, "unsupported") != 0 &&
         strcmp(verdict, "not available") != 0 && strcmp(verdict, "empty") != 0;
}

static const char *class_of(const char *verdict) {
  return is_failure(verdict) ? "failure" : strcmp(verdict, "passed") == 0 ? "passed" : "other";
}

typedef struct tally {
  long passed, failures, others, invalid, not_run;
} tally;

static tally count_run(const json_t *json) {
  tally t = {0, 0, 0, 0, 0};
  const json_t *r;
  size_t i;
  json_array_foreach(ifa_report_list(json, IFA_REPORT_RUN), i, r) {
    const char *verdict = ifa_json_text(r, "verdict");
    if (is_failure(verdict)) t.failures++;
    else if (strcmp(verdict, "passed") == 0) t.passed++;
    else t.others++;
  }
  double invalid = ifa_json_value(json_object_get(json, "counts"), "invalid");
  t.invalid = invalid > 0 && invalid < 1e9 ? (long)invalid : 0;
  double not_run = ifa_json_value(json_object_get(json, "counts"), "not run");
  t.not_run = not_run > 0 && not_run < 1e9 ? (long)not_run : 0;
  return t;
}

enum { OPEN_FAILURES = 10 }; /* the rest is there, folded */

/* The cells of a `close` kernel's place. */
static void print_numbers(FILE *to, const json_t *place) {
  number_cell(to, "expected", ifa_json_value(place, "right"), "%.7g");
  if (isnan(ifa_json_value(place, "value"))) cell(to, "got", ifa_json_text(place, "got"));
  else number_cell(to, "got", ifa_json_value(place, "value"), "%.7g");
  number_cell(to, "error", ifa_json_value(place, "error"), "%.3g");
  number_cell(to, "bound", ifa_json_value(place, "bound"), "%.3g");
  number_cell(to, "error / bound", ifa_json_value(place, "error_by_bound"), "%.3g");
}

static void print_failure(FILE *to, const json_t *r) {
  const json_t *places = json_object_get(r, "places"), *place;
  size_t i;
  fprintf(to, "<details open=\"\"><summary><b>");
  put_member(to, r, "backend");
  fprintf(to, "</b>: <span class=\"failure\">");
  put_member(to, r, "verdict");
  if (*ifa_json_text(r, "stage")) fprintf(to, " in ");
  put_member(to, r, "stage");
  fprintf(to, "</span> <code>");
  put_member(to, r, "case");
  fprintf(to, "</code></summary>\n<p>");
  put_member(to, r, "message");
  fprintf(to, "</p>\n");
  if (json_array_size(places) > 0) {
    int numbers = !isnan(ifa_json_value(json_array_get(places, 0), "bound"));
    fprintf(to,
            "<div class=\"scroll\"><table><thead><tr><th>where</th><th>expected</th>"
            "<th>got</th>%s</tr></thead><tbody>\n",
            numbers ? "<th>error</th><th>bound</th><th>error / bound</th>" : "");
    json_array_foreach(places, i, place) {
      fprintf(to, "<tr>");
      cell(to, "where", ifa_json_text(place, "where"));
      if (numbers) print_numbers(to, place);
      else {
        cell(to, "expected", ifa_json_text(place, "expected"));
        cell(to, "got", ifa_json_text(place, "got"));
      }
      fprintf(to, "</tr>\n");
    }
    fprintf(to, "</tbody></table></div>\n");
  }
  fprintf(to, "<pre>");
  put_member(to, r, "repeat");
  fprintf(to, "</pre></details>\n");
}

/* A backend that was available for none of its cases: name -> one of its results. Said in a line,
 * not in a row for each case. Released by the caller. */
static json_t *absent_backends(const json_t *list) {
  json_t *absent = json_object(), *r;
  size_t i;
  json_array_foreach(list, i, r) if (strcmp(ifa_json_text(r, "verdict"), "not available") == 0)
      json_object_set_nocheck(absent, ifa_json_text(r, "backend"), r);
  json_array_foreach(list, i, r) if (strcmp(ifa_json_text(r, "verdict"), "not available") != 0)
      json_object_del(absent, ifa_json_text(r, "backend"));
  return absent;
}

/* Plug-ins' results hold how far they are from what is right: a dot for each case, a line for each
 * plug-in. */
static void print_distances(FILE *to, const json_t *list) {
  json_t *lines = json_object();
  const json_t *r;
  size_t i;
  json_array_foreach(list, i,
                     r) if (ifa_json_value(json_object_get(r, "distance"), "relative_l2") > 0 &&
                            !json_object_get(lines, ifa_json_text(r, "backend")) &&
                            json_object_size(lines) < 50)
      json_object_set_new_nocheck(lines, ifa_json_text(r, "backend"),
                                  json_integer((json_int_t)json_object_size(lines)));
  const int height = TOP + (int)json_object_size(lines) * LINE + 10;
  if (json_object_size(lines) > 0) {
    const char *name;
    json_t *line;
    fprintf(to,
            "<p>Relative L2 distance of plug-ins, a dot for each case:</p><div "
            "class=\"scroll\"><svg viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\" "
            "aria-label=\"distance of each "
            "plug-in, a dot for each case\">\n",
            WIDTH, height, WIDTH, height);
    print_scale(to, -8, 0, height);
    json_object_foreach(lines, name, line) {
      fprintf(to, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">", LEFT - 8,
              TOP + LINE * (int)json_integer_value(line) + 14);
      put(to, name);
      fprintf(to, "</text>\n");
    }
    json_array_foreach(list, i, r) {
      double distance = ifa_json_value(json_object_get(r, "distance"), "relative_l2");
      const json_t *at = json_object_get(lines, ifa_json_text(r, "backend"));
      if (!(distance > 0) || !at) continue;
      fprintf(to, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%d\" r=\"4\"><title>",
              decade_x(distance, -8, 0), TOP + LINE * (int)json_integer_value(at) + 10);
      put_member(to, r, "case");
      fprintf(to, ": %.3g</title></circle>\n", distance);
    }
    fprintf(to, "</svg></div>\n");
  }
  json_decref(lines);
}

/* The message of a row and, of a plug-in, its distance. */
static void print_message(FILE *to, const json_t *r) {
  const json_t *d = json_object_get(r, "distance");
  fprintf(to, "<td>");
  put_member(to, r, "message");
  if (d && !isnan(ifa_json_value(d, "relative_l2"))) {
    fprintf(to, "%srelative L2 %.3g, cosine %.7g, worst row %.3g ",
            *ifa_json_text(r, "message") ? "<br/>" : "", ifa_json_value(d, "relative_l2"),
            ifa_json_value(d, "cosine"), ifa_json_value(d, "worst_row"));
    put_member(to, d, "worst_row_at");
    if (!isnan(ifa_json_value(d, "max_ulp"))) {
      fprintf(to, ", %.4g ulp ", ifa_json_value(d, "max_ulp"));
      put_member(to, d, "max_ulp_at");
    }
    if (!isnan(ifa_json_value(d, "worst_bound"))) {
      fprintf(to, ", %.3g of the bound ", ifa_json_value(d, "worst_bound"));
      put_member(to, d, "worst_bound_at");
    }
    if (ifa_json_value(d, "unbounded_rows") > 0)
      fprintf(to, "; %.0f rows have no bound", ifa_json_value(d, "unbounded_rows"));
  }
  fprintf(to, "</td>");
}

/* What the failures of each kernel say together. */
static void print_diagnoses(FILE *to, const json_t *json) {
  const json_t *list = json_object_get(json, "diagnoses"), *d, *suspect;
  size_t i, k;
  if (json_array_size(list) > 0) fprintf(to, "<h2>Diagnosis</h2>\n");
  json_array_foreach(list, i, d) {
    const double failed = fmax(ifa_json_value(d, "failed"), 0),
                 passed = fmax(ifa_json_value(d, "passed"), 0);
    fprintf(to, "<section><h3>");
    put_member(to, d, "backend");
    fprintf(to, ": <span class=\"failure\">%.0f of %.0f cases fail</span></h3>\n<p>", failed,
            failed + passed);
    put_member(to, d, "shared");
    fprintf(to, "</p>\n");
    json_array_foreach(json_object_get(d, "looks_like"), k, suspect) {
      fprintf(to, "<p>%s: <b>", k ? "or" : "as if");
      put(to, json_is_string(suspect) ? json_string_value(suspect) : "");
      fprintf(to, "</b></p>\n");
    }
    fprintf(to, "<p>Smallest case: ");
    put_member(to, d, "message");
    fprintf(to, "</p><pre>");
    put_member(to, d, "smallest");
    fprintf(to, "</pre></section>\n");
  }
}

static void print_invalid(FILE *to, const json_t *json) {
  const json_t *list = json_object_get(json, "invalid"), *one;
  size_t i;
  if (json_array_size(list) == 0) return;
  fprintf(to, "<h2>Invalid cases</h2><ul>\n");
  json_array_foreach(list, i, one) {
    fprintf(to, "<li><code>");
    put_member(to, one, "case");
    fprintf(to, "</code> ");
    put_member(to, one, "message");
    fprintf(to, "</li>\n");
  }
  fprintf(to, "</ul>\n");
}

static void print_run(FILE *to, const json_t *json, size_t number) {
  const json_t *r, *list = ifa_report_list(json, IFA_REPORT_RUN);
  json_t *absent = absent_backends(list), *example;
  const char *name;
  size_t hidden = 0;
  tally t = count_run(json);
  size_t i;
  long shown = 0;
  print_diagnoses(to, json);
  print_invalid(to, json);
  if (t.failures) fprintf(to, "<h2>Failures</h2>\n");
  json_array_foreach(list, i, r) {
    if (!is_failure(ifa_json_text(r, "verdict"))) continue;
    if (shown++ == OPEN_FAILURES)
      fprintf(to, "<details><summary>%ld more</summary>\n", t.failures - OPEN_FAILURES);
    print_failure(to, r);
  }
  if (shown > OPEN_FAILURES) fprintf(to, "</details>\n");
  fprintf(to, "<h2>Cases</h2>\n");
  print_machine(to, json);
  json_array_foreach(list, i, r) hidden +=
      json_object_get(absent, ifa_json_text(r, "backend")) != NULL;
  if (hidden)
    fprintf(to, "<p>Not available here, and counted as not run (%zu comparisons):</p><ul>\n",
            hidden);
  json_object_foreach(absent, name, example) {
    fprintf(to, "<li>");
    put(to, name);
    fprintf(to, " <span class=\"dim\">");
    put_member(to, example, "message");
    fprintf(to, "</span></li>\n");
  }
  if (hidden) fprintf(to, "</ul>\n");
  print_distances(to, list);
  fprintf(to, "<div>");
  print_filter(to, number, "all", "all", json_array_size(list) - hidden, 1);
  print_filter(to, number, "failure", "failures", (size_t)t.failures, 0);
  print_filter(to, number, "passed", "passed", (size_t)t.passed, 0);
  print_filter(to, number, "other", "not run", (size_t)t.others - hidden, 0);
  fprintf(to, "<input type=\"search\" placeholder=\"words: token causal\" aria-label=\"cases that "
              "hold these words\" hidden=\"\"/>\n"
              "<table "
              "class=\"stack\"><thead><tr><th>verdict</th><th>backend</th><th>case</"
              "th><th>seconds</th><th>message</th></tr></thead><tbody>\n");
  json_array_foreach(list, i, r) {
    const char *verdict = ifa_json_text(r, "verdict"), *class = class_of(verdict);
    if (json_object_get(absent, ifa_json_text(r, "backend"))) continue;
    fprintf(to, "<tr class=\"r-%s\"><td class=\"%s\">", class, class);
    put(to, verdict);
    fprintf(to, "</td>");
    cell(to, "backend", ifa_json_text(r, "backend"));
    fprintf(to, "<td class=\"case\">");
    put_member(to, r, "case");
    fprintf(to, "</td>");
    number_cell(to, "seconds", ifa_json_value(r, "seconds"), "%.3f");
    print_message(to, r);
    fprintf(to, "</tr>\n");
  }
  fprintf(to, "</tbody></table></div>\n");
  json_decref(absent);
}

/* ---- accuracy: a dot for each (algorithm, data), on a scale of decades ---- */

static int in_table(const json_t *r, const char *table) {
  return strcmp(ifa_json_text(r, "table"), table) == 0;
}

/* Results come column by column, each with all algorithms in one order: the first column names
 * them. */
static size_t algorithm_count(const json_t *list, const char *table) {
  const json_t *r;
  const char *data = NULL;
  size_t i, count = 0;
  json_array_foreach(list, i, r) {
    if (!in_table(r, table)) continue;
    if (!data) data = ifa_json_text(r, "data");
    if (strcmp(data, ifa_json_text(r, "data")) == 0) count++;
  }
  return count;
}

static void print_error_plot(FILE *to, const json_t *list) {
  size_t lines = algorithm_count(list, "fills"), i, line = 0;
  const json_t *r;
  if (lines == 0 || lines > 1000) return;
  const int height = TOP + (int)lines * LINE + 10;
  fprintf(
      to,
      "<div class=\"scroll\"><svg viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\" "
      "aria-label=\"relative L2 error of each algorithm, a dot for each data set\">\n",
      WIDTH, height, WIDTH, height);
  print_scale(to, -5, 0, height);
  json_array_foreach(list, i, r) {
    if (!in_table(r, "fills")) continue;
    double error = ifa_json_value(r, "relative_l2"), y = TOP + LINE * (double)(line % lines) + 10;
    if (line < lines) {
      fprintf(to, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\"%s>", LEFT - 8, y + 4,
              *ifa_json_text(r, "keys") ? " class=\"ours\"" : "");
      put_member(to, r, "algorithm");
      fprintf(to, "</text>\n");
    }
    line++;
    if (!(error > 0)) continue;
    fprintf(to, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"><title>",
            decade_x(error, -5, 0), y);
    put_member(to, r, "algorithm");
    fprintf(to, ", ");
    put_member(to, r, "data");
    fprintf(to, ": %.3g</title></circle>\n", error);
  }
  fprintf(to, "</svg></div>\n");
}

/* The paper's setting: measured (ratio of means) against tokens, with the published lines beside.
 */
static void print_paper_plot(FILE *to, const json_t *json, const char *fill) {
  static const char *const algorithms[] = {"fp8-e5m2", "int-flash-full", "int-flash-half"};
  const json_t *r, *list = ifa_report_list(json, IFA_REPORT_ACCURACY);
  size_t i;
  int any = 0;
  json_array_foreach(json_object_get(json, "published"), i, r) any |=
      strcmp(ifa_json_text(r, "fill"), fill) == 0;
  if (!any) return;
  fprintf(
      to,
      "<h3>INT-FlashAttention's setting, inputs %s</h3><div class=\"scroll\"><svg viewBox=\"0 0 "
      "640 260\" width=\"640\" height=\"260\" role=\"img\" aria-label=\"error against tokens\">\n",
      fill);
  for (int decade = -3; decade <= 0; decade++)
    fprintf(to,
            "<line class=\"grid\" x1=\"60\" y1=\"%d\" x2=\"500\" y2=\"%d\"/><text x=\"52\" "
            "y=\"%d\" text-anchor=\"end\">%g%%</text>\n",
            220 + 70 * (-3 - decade), 220 + 70 * (-3 - decade), 224 + 70 * (-3 - decade),
            100 * pow(10, decade));
  for (int k = 0; k < 5; k++)
    fprintf(to, "<text x=\"%d\" y=\"245\" text-anchor=\"middle\">%dk</text>\n", 80 + 100 * k,
            1 << k);
  for (size_t a = 0; a < sizeof algorithms / sizeof algorithms[0]; a++)
    for (int measured = 0; measured < 2; measured++) {
      double last = 0;
      int points = 0;
      json_array_foreach(measured ? list : json_object_get(json, "published"), i, r) {
        if (strcmp(ifa_json_text(r, "algorithm"), algorithms[a]) != 0) continue;
        const char *data = ifa_json_text(r, "data");
        size_t length = strlen(fill);
        if (measured
                ? !in_table(r, "paper") || strncmp(data, fill, length) != 0 || data[length] != ' '
                : strcmp(ifa_json_text(r, "fill"), fill) != 0)
          continue;
        double error = ifa_json_value(r, measured ? "mean_relative" : "mre");
        if (!(error > 0)) continue;
        last = 220 - 70 * fmin(fmax(log10(error) + 3, 0), 3);
        fprintf(to, "%s%d,%.1f",
                points     ? " "
                : measured ? "<polyline class=\"line\" points=\""
                           : "<polyline class=\"published\" points=\"",
                80 + 100 * points, last);
        points++;
      }
      if (points) fprintf(to, "\"/>\n");
      if (points && measured)
        fprintf(to, "<text x=\"510\" y=\"%.1f\">%s</text>\n", last + 4, algorithms[a]);
    }
  fprintf(to, "</svg></div><p class=\"dim\">Full lines: measured, mean |error| / mean |o|. Dashed: "
              "published.</p>\n");
}

static void print_accuracy(FILE *to, const json_t *json, size_t number) {
  const json_t *r, *list = ifa_report_list(json, IFA_REPORT_ACCURACY);
  size_t i;
  (void)number;
  fprintf(to, "<h2>Accuracy</h2>\n");
  print_machine(to, json);
  fprintf(to, "<p>Relative L2 error against binary64 attention on the tensors before quantization; "
              "a dot for each data set, in bold this library.</p>\n");
  print_error_plot(to, list);
  print_paper_plot(to, json, "normal");
  print_paper_plot(to, json, "centred");
  fprintf(to,
          "<details><summary>All %zu figures</summary><table "
          "class=\"stack\"><thead><tr><th>algorithm</th><th>data</th><th>relative L2</th><th>mean "
          "relative</th><th>MRE</th>"
          "<th>cosine</th><th>worst row</th></tr></thead><tbody>\n",
          json_array_size(list));
  json_array_foreach(list, i, r) {
    fprintf(to, "<tr>");
    cell(to, "algorithm", ifa_json_text(r, "algorithm"));
    cell(to, "data", ifa_json_text(r, "data"));
    number_cell(to, "relative L2", ifa_json_value(r, "relative_l2"), "%.3g");
    number_cell(to, "mean relative", ifa_json_value(r, "mean_relative"), "%.3g");
    number_cell(to, "MRE", ifa_json_value(r, "mre"), "%.3g");
    number_cell(to, "cosine", ifa_json_value(r, "cosine"), "%.7f");
    number_cell(to, "worst row", ifa_json_value(r, "worst_row"), "%.3g");
    fprintf(to, "</tr>\n");
  }
  fprintf(to, "</tbody></table></details>\n");
}

/* ---- mutants ---- */

/* Survivors that are not proved equivalent. */
static size_t count_survivors(const json_t *json) {
  const json_t *m;
  size_t i, count = 0;
  json_array_foreach(ifa_report_list(json, IFA_REPORT_MUTANTS), i, m) count +=
      !json_is_true(json_object_get(m, "killed")) &&
      !json_is_true(json_object_get(m, "equivalent"));
  return count;
}

static void print_mutants(FILE *to, const json_t *json, size_t number) {
  const json_t *m, *list = ifa_report_list(json, IFA_REPORT_MUTANTS);
  json_t *suites = json_object_get(json, "suites"), *about;
  const char *suite, *kernel;
  size_t i, equivalent = 0;
  json_array_foreach(list, i, m) equivalent += json_is_true(json_object_get(m, "equivalent"));
  fprintf(to, "<h2>Kill matrix</h2>\n");
  print_machine(to, json);
  fprintf(to,
          "<p>%zu mutants: kernels with one fault each. %zu survive, %zu are proved equivalent.",
          json_array_size(list), count_survivors(json), equivalent);
  json_object_foreach(suites, suite, about) {
    fprintf(to, " <b>");
    put(to, suite);
    fprintf(to, "</b> kills %.0f", fmax(ifa_json_value(about, "killed"), 0));
    if (!isnan(ifa_json_value(about, "tried")))
      fprintf(to, " of the %.0f tried", fmax(ifa_json_value(about, "tried"), 0));
    fprintf(to, " with %.0f cases.", fmax(ifa_json_value(about, "cases"), 0));
  }
  fprintf(to, "</p>\n");
  json_object_foreach(json_object_get(json, "kernels"), kernel,
                      about) if (json_is_false(json_object_get(about, "available"))) {
    fprintf(to, "<p>Not run: ");
    put_member(to, about, "message");
    fprintf(to, "</p>\n");
  }
  fprintf(to, "<div>");
  print_filter(to, number, "all", "all", json_array_size(list), 1);
  print_filter(to, number, "survived", "survivors", count_survivors(json), 0);
  fprintf(to, "<table class=\"stack\"><thead><tr><th>mutant</th><th>fault</th>");
  json_object_foreach(suites, suite, about) {
    fprintf(to, "<th>");
    put(to, suite);
    fprintf(to, "</th>");
  }
  fprintf(to, "</tr></thead><tbody>\n");
  json_array_foreach(list, i, m) {
    int is_equivalent = json_is_true(json_object_get(m, "equivalent")),
        killed = json_is_true(json_object_get(m, "killed"));
    fprintf(to, "<tr class=\"r-%s\">", killed || is_equivalent ? "killed" : "survived");
    cell(to, "mutant", ifa_json_text(m, "name"));
    fprintf(to, "<td>");
    if (*ifa_json_text(m, "kernel")) {
      put_member(to, m, "kernel");
      fprintf(to, ", ");
    }
    put_member(to, m, "part");
    fprintf(to, ": ");
    put_member(to, m, "what");
    if (is_equivalent) {
      fprintf(to, "<br/><span class=\"dim\">equivalent: ");
      put_member(to, m, "proof");
      fprintf(to, "</span>");
    }
    fprintf(to, "</td>");
    json_object_foreach(suites, suite, about) {
      const json_t *by = json_object_get(json_object_get(m, "killed_by"), suite);
      fprintf(to, "<td data-label=\"");
      put(to, suite);
      fprintf(to, "\" class=\"%s\" title=\"",
              json_is_string(by)               ? "killed"
              : !by || killed || is_equivalent ? "other"
                                               : "survived");
      put(to, json_is_string(by) ? json_string_value(by) : "");
      fprintf(to, "\">%s</td>",
              json_is_string(by) ? "killed"
              : !by              ? "not tried"
              : is_equivalent    ? "equivalent"
              : killed           ? "not noticed"
                                 : "survives");
    }
    fprintf(to, "</tr>\n");
  }
  fprintf(to, "</tbody></table></div>\n");
}

/* ---- bench: a bar for each line, against its ceiling ---- */

static void print_bench_case(FILE *to, const json_t *list, size_t first, size_t last) {
  double most = 0;
  for (size_t i = first; i < last; i++) {
    const json_t *r = json_array_get(list, i);
    most = fmax(most, fmax(ifa_json_value(r, "rate"), ifa_json_value(r, "ceiling")));
  }
  const int height = (int)(last - first) * LINE + 6;
  fprintf(to, "<h3><code>");
  put_member(to, json_array_get(list, first), "case");
  fprintf(to,
          "</code></h3>\n<div class=\"scroll\"><svg viewBox=\"0 0 %d %d\" width=\"%d\" "
          "height=\"%d\" role=\"img\" aria-label=\"speed of each backend and its ceiling\">\n",
          WIDTH, height, WIDTH, height);
  for (size_t i = first; i < last && most > 0; i++) {
    const json_t *r = json_array_get(list, i);
    double rate = ifa_json_value(r, "rate"), ceiling = ifa_json_value(r, "ceiling"),
           y = LINE * (double)(i - first), scale = (WIDTH - LEFT - 220) / most;
    fprintf(to, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT - 8, y + 12);
    put_member(to, r, "subject");
    fprintf(to, "</text>\n");
    if (!(rate >= 0)) continue;
    fprintf(to,
            "<rect class=\"bar\" x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%d\"/><text "
            "x=\"%.1f\" y=\"%.1f\">%.4g Gop/s",
            LEFT, y + 2, rate * scale, LINE - 5,
            LEFT + fmax(rate, ceiling > 0 ? ceiling : 0) * scale + 8, y + 13, rate);
    if (ceiling > 0)
      fprintf(to,
              ", %.1f%% of %.4g</text><line class=\"limit\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" "
              "y2=\"%.1f\"/>\n",
              100 * rate / ceiling, ceiling, LEFT + ceiling * scale, y, LEFT + ceiling * scale,
              y + LINE - 1);
    else fprintf(to, "</text>\n");
  }
  fprintf(to, "</svg></div>\n");
}

static void print_bench(FILE *to, const json_t *json, size_t number) {
  const json_t *list = ifa_report_list(json, IFA_REPORT_BENCH), *c, *r;
  size_t i, first = 0;
  (void)number;
  fprintf(to, "<h2>Speed</h2>\n");
  print_machine(to, json);
  fprintf(to,
          "<p>Medians; the mark is the ceiling of that line, measured in the same run:</p><ul>");
  json_array_foreach(json_object_get(json, "ceilings"), i, c) {
    fprintf(to, "<li>");
    put_member(to, c, "name");
    fprintf(to, ": %.4g ", ifa_json_value(c, "median"));
    put_member(to, c, "unit");
    fprintf(to, "</li>");
  }
  fprintf(to, "</ul>\n");
  json_array_foreach(list, i,
                     r) if (i + 1 == json_array_size(list) ||
                            strcmp(ifa_json_text(r, "case"),
                                   ifa_json_text(json_array_get(list, i + 1), "case")) != 0) {
    print_bench_case(to, list, first, i + 1);
    first = i + 1;
  }
  fprintf(to, "<table class=\"stack\"><thead><tr><th>case</th><th>subject</th><th>median "
              "ms</th><th>least</th><th>most</th><th>Gop/s</th><th>of the "
              "ceiling</th></tr></thead><tbody>\n");
  json_array_foreach(list, i, r) {
    fprintf(to, "<tr><td class=\"case\">");
    put_member(to, r, "case");
    fprintf(to, "</td>");
    cell(to, "subject", ifa_json_text(r, "subject"));
    number_cell(to, "median ms", 1e3 * ifa_json_value(r, "median"), "%.3f");
    number_cell(to, "least", 1e3 * ifa_json_value(r, "least"), "%.3f");
    number_cell(to, "most", 1e3 * ifa_json_value(r, "most"), "%.3f");
    number_cell(to, "Gop/s", ifa_json_value(r, "rate"), "%.2f");
    number_cell(to, "of the ceiling",
                100 * ifa_json_value(r, "rate") / ifa_json_value(r, "ceiling"), "%.1f%%");
    fprintf(to, "</tr>\n");
  }
  fprintf(to, "</tbody></table>\n");
}

/* ---- the page ---- */

typedef struct page {
  json_t *const *documents;
  size_t count;
} page;

static ifa_report_kind kind_of(const json_t *json) {
  for (int k = 0; k < IFA_REPORT_KINDS; k++)
    if (strcmp(ifa_json_text(json, "kind"), ifa_report_kind_name((ifa_report_kind)k)) == 0)
      return (ifa_report_kind)k;
  return IFA_REPORT_RUN; /* not reached: ifa_report_kind_of has looked */
}

/* One line for each document; the worst of them colours the box. */
static void print_verdict(FILE *to, const page *p) {
  tally all = {0, 0, 0, 0, 0};
  size_t survivors = 0, runs = 0, mutants = 0;
  int mutants_failed = 0;
  for (size_t i = 0; i < p->count; i++) {
    const json_t *json = p->documents[i];
    if (kind_of(json) == IFA_REPORT_RUN) {
      tally t = count_run(json);
      runs++;
      all = (tally){all.passed + t.passed, all.failures + t.failures, all.others + t.others,
                    all.invalid + t.invalid, all.not_run + t.not_run};
    } else if (kind_of(json) == IFA_REPORT_MUTANTS) {
      mutants++;
      survivors += count_survivors(json);
      mutants_failed |= json_is_false(json_object_get(json, "passed"));
    }
  }
  int bad = all.failures > 0 || all.invalid > 0 || survivors > 0 || mutants_failed;
  int good = !bad && (all.passed > 0 || (mutants > 0 && runs == 0));
  fprintf(to, "<div class=\"verdict %s\"><h1>%s</h1>\n",
          bad    ? "bad"
          : good ? "good"
                 : "",
          bad    ? "Failed"
          : good ? "Passed"
          : runs ? "Nothing was executed"
                 : "Measured");
  if (runs)
    fprintf(to, "<p>%ld comparisons agree, %ld fail, %ld not run</p>\n", all.passed, all.failures,
            all.others);
  if (all.invalid) fprintf(to, "<p>%ld cases are invalid</p>\n", all.invalid);
  if (all.not_run)
    fprintf(to, "<p>%ld cases were not run: it stopped after so many failures</p>\n", all.not_run);
  if (mutants)
    fprintf(to, "<p>%zu mutants survive%s</p>\n", survivors,
            mutants_failed && !survivors ? ", and the suites do not reach what is asked of them"
                                         : "");
  fprintf(to, "</div>\n");
}

static void print_page(FILE *to, const void *context) {
  static void (*const print[IFA_REPORT_KINDS])(FILE *, const json_t *,
                                               size_t) = {[IFA_REPORT_RUN] = print_run,
                                                          [IFA_REPORT_ACCURACY] = print_accuracy,
                                                          [IFA_REPORT_MUTANTS] = print_mutants,
                                                          [IFA_REPORT_BENCH] = print_bench};
  const page *p = context;
  fprintf(to,
          "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta "
          "name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>"
          "<title>validate</title><style>%s</style></head><body>\n",
          style);
  print_verdict(to, p);
  for (int k = 0; k < IFA_REPORT_KINDS; k++)
    for (size_t i = 0; i < p->count; i++)
      if ((int)kind_of(p->documents[i]) == k) print[k](to, p->documents[i], i);
  fprintf(to, "<script>%s</script></body></html>\n", script);
}

ifa_status ifa_html_write(const char *path, json_t *const *documents, size_t count,
                          ifa_message *message) {
  page p = {documents, count};
  return ifa_print_file(path, print_page, &p, message);
}
