// Charts of the last hour and of a rollout. Everything else works without this file.
(function () {
  "use strict";
  const hues = ["#2f7fd1", "#d1495b", "#1b998b", "#c77d0a", "#7b5cd6", "#5f6b2d", "#8d6e63", "#3a7d9c"];
  const charts = new Map();
  const style = function (name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); };
  function axis(extra) {
    const line = style("--line");
    return Object.assign({ stroke: style("--dim"), grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } }, extra);
  }
  // As everywhere in Turnout: UTC, 24 hours.
  function utc(seconds) { return uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"); }
  function clock(u, values) { return values.map(function (t) { return new Date(t * 1e3).toISOString().slice(11, 19); }); }
  function when(u, t) { return t == null ? "" : new Date(t * 1e3).toISOString().slice(0, 19).replace("T", " "); }
  function value(u, v) { return v == null ? "" : v.toPrecision(3); }
  function draw(place, body) {
    const kind = place.dataset.kind, versions = Object.keys(body.versions).sort();
    const columns = [body.times].concat(versions.map(function (v) { return body.versions[v][kind]; }));
    if (!body.times.length) {
      place.replaceChildren(Object.assign(document.createElement("p"), { textContent: "Nothing yet: a sample is taken every ten seconds." }));
      return;
    }
    const known = charts.get(place);
    if (known && known.versions === versions.join()) { known.chart.setData(columns); return; }
    if (known) known.chart.destroy();
    place.replaceChildren();
    const series = [{ label: "UTC", value: when }].concat(versions.map(function (v, i) {
      return { label: v, stroke: hues[i % hues.length], width: 2, value: value, points: { show: body.times.length < 3 } };
    }));
    const size = { width: place.clientWidth, height: 220, tzDate: utc, series: series, axes: [axis({ values: clock, space: 70 }), axis({ size: 60 })], scales: { y: { range: function (u, low, high) { return [0, high > 0 ? high * 1.1 : 1]; } } } };
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
  async function rollout() {
    const place = document.querySelector("[data-rollout]");
    if (!place || (place.dataset.final !== undefined && place.dataset.drawn)) return;
    const body = await fetched(place.dataset.rollout).catch(function () { return null; });
    if (body) { turnoutPlots.draw(body); place.dataset.drawn = "1"; }
  }
  function again(work, milliseconds) {
    work();
    setInterval(function () { if (!document.hidden) work(); }, milliseconds);
  }
  again(hour, 5000);
  again(rollout, 4000);
  addEventListener("resize", function () {
    charts.forEach(function (one, place) { one.chart.setSize({ width: place.clientWidth, height: 220 }); });
  });
})();
