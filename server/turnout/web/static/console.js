// Charts of the last hour and of a rollout, and rules for pages that refresh themselves. Everything else works without it.
(function () {
  "use strict";
  const charts = new Map();
  const style = function (name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); };
  function axis(extra) {
    const line = style("--line");
    return Object.assign({ stroke: style("--dim"), grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } }, extra);
  }
  // UTC and 24 hours, as everywhere in Turnout.
  function utc(seconds) { return uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"); }
  function clock(u, values) { return values.map(function (t) { return new Date(t * 1e3).toISOString().slice(11, 19); }); }
  function when(u, t, series) { if (u) t = at(u, t, series); return t == null ? "" : new Date(t * 1e3).toISOString().slice(0, 19).replace("T", " "); }
  // The value at the cursor or, without a cursor, the latest, so that the legend always has numbers.
  function at(u, v, series) {
    const column = u.data && u.data[series];
    return v == null && column ? column[column.length - 1] : v;
  }
  function value(u, v, series) {
    const shown = at(u, v, series);
    return shown == null ? "–" : shown >= 1000 ? Math.round(shown).toLocaleString("en") : String(Number(shown.toPrecision(3)));
  }
  const markers = { width: 0, fill: function (u, i) { return u.series[i]._stroke || u.series[i].stroke(u, i); } };
  // Latency has a logarithmic axis, so that one slow request does not flatten all others.
  function decades(u, low, high) {
    if (!(low > 0)) return [0.1, 10];
    const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high));
    return [Math.pow(10, from), Math.pow(10, to > from ? to : from + 1)];
  }
  function whole(u, values) {
    const shown = values.filter(function (x) { return x != null; });
    const few = shown.length && Math.log10(shown[shown.length - 1] / shown[0]) < 2.5;  // also label 2 and 5
    return values.map(function (x) {
      if (x == null) return null;
      const lead = Math.round(x / Math.pow(10, Math.floor(Math.log10(x) + 1e-6)));
      return lead === 1 || (few && (lead === 2 || lead === 5)) ? x : null;
    });
  }
  function forget(place) {
    const known = charts.get(place);
    if (known) known.chart.destroy();
    charts.delete(place);
  }
  function draw(place, body) {
    const kind = place.dataset.kind, versions = Object.keys(body.versions);  // in the order of the table
    const columns = [body.times].concat(versions.map(function (v) { return body.versions[v][kind]; }));
    if (!versions.length) {
      const text = body.times.length ? "No request in the last hour." : "No data yet. A sample is taken every ten seconds.";
      if (place.textContent !== text) {
        forget(place);
        place.replaceChildren(Object.assign(document.createElement("p"), { textContent: text }));
      }
      return;
    }
    const known = charts.get(place);
    if (known && known.versions === versions.join()) { known.chart.setData(columns); return; }
    forget(place);
    place.replaceChildren();
    const series = [{ label: "UTC", value: function (u, t, series) { return when(u, t, series).slice(11); } }].concat(versions.map(function (v, i) {
      const twice = versions.slice(0, i).some(function (other) { return body.colours[other] === body.colours[v]; });
      return { label: v, stroke: style("--v" + body.colours[v]), width: 2, dash: twice ? [6, 3] : [], value: value, points: { show: body.times.length < 3 } };
    }));
    const timed = kind === "p50" || kind === "p99";
    const y = timed ? { distr: 3, range: decades } : { range: function (u, low, high) { return [0, high > 0 ? high * 1.1 : 1]; } };
    const line = style("--line");
    const up = axis(timed ? { size: 60, filter: whole, grid: { stroke: line, width: 1, filter: whole }, ticks: { stroke: line, width: 1, filter: whole } } : { size: 60 });
    const size = { width: place.clientWidth, height: 220, tzDate: utc, series: series, cursor: { sync: { key: "hour" } }, legend: { markers: markers }, axes: [axis({ values: clock, space: 70 }), up], scales: { y: y } };
    charts.set(place, { versions: versions.join(), chart: new uPlot(size, columns, place) });
  }
  async function fetched(source) {
    const answer = await fetch(source, { headers: { Accept: "application/json" } });
    return answer.ok ? answer.json() : null;
  }
  async function hour() {
    const places = document.querySelectorAll(".chart");
    if (!places.length) return;
    const body = await fetched(places[0].dataset.src).catch(function () { return null; });
    if (body) places.forEach(function (place) { draw(place, body); });
  }
  let ended = false;
  async function rollout() {
    const place = document.querySelector("[data-rollout]");
    if (!place || ended) return;
    const last = !document.querySelector("#live[hx-get]");
    const body = await fetched(place.dataset.rollout).catch(function () { return null; });
    if (!body) return;
    turnoutPlots.draw(body);
    ended = last;  // the rollout will not change any more
  }
  function again(work, milliseconds) {
    work();
    setInterval(function () { if (!document.hidden) work(); }, milliseconds);
  }
  again(hour, 10000);
  again(rollout, 4000);
  addEventListener("resize", function () {
    charts.forEach(function (one, place) { one.chart.setSize({ width: place.clientWidth, height: 220 }); });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () {
    Array.from(charts.keys()).forEach(forget);
    hour();
  });

  // A refresh updates only what has changed, in place: focus, input, scroll positions and charts are kept.
  Idiomorph.defaults.callbacks.beforeNodeMorphed = function (old) {
    return !(old instanceof Element && old.matches("[data-keep], input:not([type=hidden]), select, textarea"));
  };
  const stale = document.getElementById("stale");
  let asOf = new Date();
  function warn(text) { stale.textContent = text + " This page shows the state as of " + when(null, asOf / 1e3) + " UTC."; }
  document.body.addEventListener("htmx:beforeRequest", function (event) { if (document.hidden) event.preventDefault(); });
  document.body.addEventListener("htmx:beforeSwap", function (event) {
    const xhr = event.detail.xhr;
    if (xhr.status !== 200 || xhr.responseText.includes('id="live"')) return;
    event.detail.shouldSwap = false;
    warn("The page cannot be refreshed: the server sent another page, such as the sign-in. Reload the page.");
  });
  document.body.addEventListener("htmx:afterSwap", function () { asOf = new Date(); stale.textContent = ""; });
  document.body.addEventListener("htmx:sendError", function () { warn("The server does not answer."); });
  document.body.addEventListener("htmx:responseError", function (event) {
    const page = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
    const said = page.querySelector("[role=alert]");
    warn("The page cannot be refreshed" + (said ? ": " + said.textContent : "") + ".");
  });
  document.addEventListener("submit", function (event) {
    const asked = event.submitter && event.submitter.dataset.confirm;
    if (asked && !confirm(asked)) event.preventDefault();
  });
})();
