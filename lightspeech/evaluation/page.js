"use strict";
(function () {
  // Each article holds one audio element per voice and, for each sentence, a strip whose tracks
  // know at which second they start and how many seconds each symbol lasts.
  var articles = Array.prototype.slice.call(document.querySelectorAll("article"));
  var current = null;
  var active = null; // the audio element that was started last
  var playingAll = false;
  var all = document.getElementById("all");

  function audioOf(article, who) { return article.querySelector("audio[data-who=" + who + "]"); }

  // Start and end in seconds of every symbol, over all the sentences.
  function spans(article, who) {
    var list = [];
    article.querySelectorAll(".symbols.of-" + who).forEach(function (row) {
      var at = parseFloat(row.dataset.start);
      var cells = row.children;
      row.dataset.seconds.split(" ").forEach(function (text, i) {
        var end = at + parseFloat(text);
        list.push({ start: at, end: end, cell: cells[i] });
        at = end;
      });
    });
    return list;
  }

  function select(article, scroll) {
    if (current) { current.classList.remove("current"); }
    current = article;
    article.classList.add("current");
    if (scroll) { article.focus({ preventScroll: true }); article.scrollIntoView({ block: "start" }); }
  }

  // Pauses every other player and takes its cursor off the page.
  function pauseOthers(audio) {
    document.querySelectorAll("audio").forEach(function (other) {
      if (other !== audio && !other.paused) { other.pause(); }
    });
    document.querySelectorAll("b.now").forEach(function (cell) { cell.classList.remove("now"); });
    document.querySelectorAll(".cursor").forEach(function (cursor) { cursor.style.display = "none"; });
  }

  function follow(article, audio, who) {
    var list = null;
    var lit = null;
    function draw() {
      if (active !== audio) { return; }
      var now = audio.currentTime;
      article.querySelectorAll(".track.of-" + who).forEach(function (track) {
        var share = (now - parseFloat(track.dataset.start)) / parseFloat(track.dataset.length);
        var cursor = track.querySelector(".cursor");
        var inside = share >= 0 && share <= 1;
        cursor.style.display = inside ? "block" : "none";
        cursor.style.left = 100 * share + "%";
        var box = track.closest(".scroll");
        if (inside && box.scrollWidth > box.clientWidth) {
          var x = share * track.offsetWidth;
          if (x < box.scrollLeft || x > box.scrollLeft + 0.8 * box.clientWidth) {
            box.scrollLeft = x - 0.2 * box.clientWidth;
          }
        }
      });
      list = list || spans(article, who);
      var span = list.find(function (s) { return now >= s.start && now < s.end; });
      if (lit && lit !== span) { lit.cell.classList.remove("now"); }
      lit = span || null;
      if (lit && !audio.ended) { lit.cell.classList.add("now"); }
      if (lit && audio.ended) { lit.cell.classList.remove("now"); }
      if (!audio.paused && !audio.ended) { requestAnimationFrame(draw); }
    }
    audio.addEventListener("play", function () {
      select(article, false);
      active = audio;
      pauseOthers(audio);
      article.dataset.last = who;
      draw();
    });
    audio.addEventListener("seeked", draw);
    audio.addEventListener("ended", function () { draw(); next(article, who); });
    article.querySelectorAll(".track.of-" + who).forEach(function (track) {
      track.addEventListener("click", function (event) {
        var box = track.getBoundingClientRect();
        audio.currentTime = parseFloat(track.dataset.start)
          + (event.clientX - box.left) / box.width * parseFloat(track.dataset.length);
        audio.play();
      });
    });
  }

  // The voice after this one in a text; undefined after the last.
  function after(article, who) {
    var voices = Array.prototype.map.call(
      article.querySelectorAll("audio"), function (audio) { return audio.dataset.who; });
    return voices[voices.indexOf(who) + 1];
  }

  // After a voice has ended: the next one of the same text, then the next text.
  function next(article, who) {
    if (!playingAll) { return; }
    var other = after(article, who);
    if (other) { var audio = audioOf(article, other); audio.currentTime = 0; audio.play(); return; }
    var following = articles[articles.indexOf(article) + 1];
    if (!following) { setAll(false); return; }
    select(following, true);
    start(following);
  }

  function start(article) {
    var audio = audioOf(article, "student");
    audio.currentTime = 0;
    audio.play();
  }

  function setAll(on) {
    playingAll = on;
    all.textContent = on ? "Stop" : "Play all";
    all.setAttribute("aria-pressed", String(on));
  }

  all.addEventListener("click", function () {
    if (playingAll) { setAll(false); pauseOthers(null); return; }
    setAll(true);
    var first = current || articles[0];
    select(first, true);
    start(first);
  });

  // Changes the voice and stays at the same place in the text.
  function switchVoice(article) {
    var from = article.dataset.last || "student";
    var to = after(article, from) || "student";
    if (to === from) { return; }
    var source = audioOf(article, from);
    var target = audioOf(article, to);
    var there = spans(article, to);
    var index = spans(article, from).findIndex(function (s) { return source.currentTime < s.end; });
    target.currentTime = source.ended || index < 0 || !there[index] ? 0 : there[index].start;
    article.dataset.last = to;
    target.play();
  }

  document.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey) { return; }
    // Buttons, players and summaries keep their own keys.
    var own = event.target.closest("button, audio, summary, a");
    if (own && (event.key === " " || event.key === "Enter")) { return; }
    var at = articles.indexOf(current);
    if (event.key === "j" || event.key === "k") {
      var to = Math.min(Math.max(at + (event.key === "j" ? 1 : -1), 0), articles.length - 1);
      var wasPlaying = current && Array.prototype.some.call(
        current.querySelectorAll("audio"), function (a) { return !a.paused; });
      select(articles[to], true);
      if (wasPlaying) { start(articles[to]); }
    } else if (event.key === " ") {
      event.preventDefault();
      if (!current) { select(articles[0], true); }
      var audio = audioOf(current, current.dataset.last || "student");
      if (audio.paused) { audio.play(); } else { audio.pause(); }
    } else if (event.key === "s" && current) {
      switchVoice(current);
    }
  });

  articles.forEach(function (article) {
    article.querySelectorAll("audio").forEach(function (audio) {
      follow(article, audio, audio.dataset.who);
    });
    article.addEventListener("focusin", function () { select(article, false); });
  });
})();
