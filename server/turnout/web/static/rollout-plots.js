// Draws the plots of a rollout (evidence, latency and weights) into the elements with these ids. Needs uPlot.
(function () {
  "use strict";
  let data = null;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "#888"; }
  const drawn = new Map();
  let low = 0.1, high = 1;
  function axis(extra) {
    const style = getComputedStyle(document.documentElement);
    const fg = style.getPropertyValue("--dim").trim(), line = style.getPropertyValue("--line").trim();
    return Object.assign({ stroke: fg, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } }, extra);
  }
  function plot(id, title, series, columns, scales, axes) {
    const place = document.getElementById(id);
    if (!place || !columns[0].length) return;
    const known = drawn.get(id);
    if (known && !known.few && columns[0].length > 2) { known.chart.setData(columns); return; }  // keeps the cursor where it is
    if (known) known.chart.destroy();
    const size = { width: place.clientWidth - 16, height: 300, tzDate: function (t) { return uPlot.tzDate(new Date(t * 1e3), "Etc/UTC"); } };
    series.forEach(function (one) { one.points = { show: columns[0].length < 3 }; });
    const markers = { width: 0, fill: function (u, i) { return u.series[i]._stroke || u.series[i].stroke(u, i); } };
    const chart = new uPlot(Object.assign({ title: title, legend: { markers: markers }, series: series, scales: scales, axes: axes }, size), columns, place);
    drawn.set(id, { chart: chart, place: place, few: columns[0].length < 3 });
  }
  // The value at the cursor or, without a cursor, the latest, so that the legend always has numbers.
  function at(u, v, series) {
    const column = u.data && u.data[series];
    return v == null && column ? column[column.length - 1] : v;
  }
  function two(n) { return String(n).padStart(2, "0"); }
  function clock(seconds, fine) {
    const t = new Date(seconds * 1e3);
    return two(t.getUTCHours()) + ":" + two(t.getUTCMinutes()) + (fine ? ":" + two(t.getUTCSeconds()) : "");
  }
  function day(seconds) { return new Date(seconds * 1e3).toISOString().slice(0, 10); }
  const when = { label: "UTC", value: function (u, v, i) { v = at(u, v, i); return v == null ? "" : day(v) + " " + clock(v, true); } };
  // Seconds between labels of the time axis: labels show whole seconds, so closer ones would repeat each other.
  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 2592000];
  function times() {
    return axis({ space: 80, incrs: STEPS, values: function (u, v, at, space, step) {
      return v.map(function (x, i) {
        const text = step >= 86400 ? day(x) : clock(x, step < 60);
        return step < 86400 && (i === 0 || day(x) !== day(v[i - 1])) ? text + "\n" + day(x) : text;
      });
    } });
  }
  // Labels of a logarithmic axis: whole decades and, if there are few of them, 2 and 5 of each decade.
  function decades(u, v) {
    const shown = v.filter(function (x) { return x != null; });
    const few = shown.length && Math.log10(shown[shown.length - 1] / shown[0]) < 2.5;
    return v.map(function (x) {
      if (x == null) return null;
      const lead = Math.round(x / Math.pow(10, Math.floor(Math.log10(x) + 1e-6)));
      return lead === 1 || (few && (lead === 2 || lead === 5)) ? x : null;
    });
  }
  function e(value) {
    if (value == null) return "";
    if (value <= 0.01) return "≤ 0.01";  // the start of the axis
    return value >= 1e6 || value < 0.01 ? value.toExponential(1) : value.toLocaleString("en-US", { maximumSignificantDigits: 3 });
  }
  function draw() {
    const fg = getComputedStyle(document.documentElement).getPropertyValue("--fg").trim(), line = getComputedStyle(document.documentElement).getPropertyValue("--line").trim();
    const names = Object.keys(data.metrics);
    const values = [].concat(data.combined, ...names.map(function (n) { return data.metrics[n]; }));
    low = values.reduce(function (a, b) { return Math.min(a, b); }, 0.1);
    high = values.reduce(function (a, b) { return Math.max(a, b); }, data.threshold * 10);
    plot("evidence", "Evidence that the candidate is worse, by time (UTC)",
      [when]
        .concat(names.map(function (n) { return { label: n, stroke: colour("--m-" + n), width: 1.3, value: function (u, v, i) { return e(at(u, v, i)); } }; }))
        .concat([{ label: "combined", stroke: fg, width: 2.5, value: function (u, v, i) { return e(at(u, v, i)); } }])
        .concat([{ label: "rolled back at", stroke: colour("--bad"), dash: [6, 4], width: 1.5, value: function (u, v, i) { return e(at(u, v, i)); } }]),
      [data.times].concat(names.map(function (n) { return data.metrics[n]; })).concat([data.combined]).concat([data.times.map(function () { return data.threshold; })]),
      { y: { distr: 3, range: function () { return [low, high]; } } }, [times(), axis({ size: 70, filter: decades, grid: { stroke: line, width: 1, filter: decades }, ticks: { stroke: line, width: 1, filter: decades }, values: function (u, v) { return v.map(function (x) { return x == null ? "" : e(x); }); } })]);
    const c = data.latency.candidate, p = data.latency.previous;
    if (c.length && p.length) {
      let first = 0, last = data.bounds.length - 1;
      while (first < last && c[first + 1] === 0 && p[first + 1] === 0) first++;
      while (last > first && c[last - 1] === 1 && p[last - 1] === 1) last--;
      const percent = function (u, v) { return v == null ? "–" : +(v * 100).toFixed(2) + "%"; };
      const least = Math.floor(Math.min(c[first], p[first], 0.9) * 10) / 10;  // start where the curves start
      plot("latency", "Share of requests answered within a number of milliseconds",
        [{ label: "ms", value: function (u, v) { return v == null ? "–" : v.toPrecision(3); } },
          { label: data.candidate, stroke: colour("--v" + data.colours.candidate), width: 2, value: percent }, { label: data.previous, stroke: colour("--v" + data.colours.previous), width: 2, value: percent }],
        [data.bounds.slice(first, last + 1), c.slice(first, last + 1), p.slice(first, last + 1)],
        { x: { time: false, distr: 3 }, y: { range: [least, 1 + 0.02 * (1 - least)] } },
        [axis({ filter: decades, values: function (u, v) { return v.map(function (x) { return x == null ? "" : String(Number(x.toPrecision(3))); }); } }),
          axis({ values: function (u, v) { return v.map(function (x) { return Math.round(x * 100) + "%"; }); } })]);
    }
    if (data.weights.some(function (w) { return w != null; })) {
      plot("weights", "The candidate's share of the traffic",
        [when, { label: data.candidate, stroke: colour("--v" + data.colours.candidate), fill: colour("--v" + data.colours.candidate) + "22", width: 2, paths: uPlot.paths.stepped({ align: -1 }), value: function (u, v, i) { v = at(u, v, i); return v == null ? "" : +(v * 100).toFixed(2) + "%"; } }],
        [data.times, data.weights], { y: { range: [0, 1.02] } },
        [times(), axis({ values: function (u, v) { return v.map(function (x) { return Math.round(x * 100) + "%"; }); } })]);
    }
  }
  window.turnoutPlots = { draw: function (body) { data = body; draw(); } };
  dark.addEventListener("change", function () {
    drawn.forEach(function (one) { one.chart.destroy(); });
    drawn.clear();
    if (data) draw();
  });
  addEventListener("resize", function () {
    drawn.forEach(function (one) { one.chart.setSize({ width: one.place.clientWidth - 16, height: 300 }); });
  });
})();
