"use strict";
(function () {
  var filter = document.getElementById("filter");
  var shown = document.getElementById("shown");
  var scroll = document.querySelector(".scroll");
  var rows = Array.prototype.slice.call(document.querySelectorAll(".filtered"));
  var zoom = 1;
  document.querySelector(".tools").hidden = false;
  filter.addEventListener("input", function () {
    var words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    var n = 0;
    rows.forEach(function (row) {
      var text = row.textContent.toLowerCase();
      var is = words.every(function (word) { return text.indexOf(word) >= 0; });
      row.hidden = !is;
      if (is) { n++; }
    });
    shown.textContent = words.length ? n + " of " + rows.length + " rows" : "";
  });
  function setZoom(to) {
    var middle = (scroll.scrollLeft + scroll.clientWidth / 2) / scroll.scrollWidth;
    zoom = Math.min(64, Math.max(1, to));
    scroll.style.setProperty("--zoom", String(zoom));
    scroll.scrollLeft = middle * scroll.scrollWidth - scroll.clientWidth / 2;
  }
  document.getElementById("zoom-in").addEventListener("click", function () { setZoom(zoom * 2); });
  document.getElementById("zoom-out").addEventListener("click", function () { setZoom(zoom / 2); });
})();
