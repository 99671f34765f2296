// Light or dark: the system's choice, until the reader makes one. Runs before the first paint.
(() => {
    const root = document.documentElement;
    const system = matchMedia("(prefers-color-scheme: dark)");
    let chosen = null;

    try {
        chosen = localStorage.getItem("quern.theme");
    } catch { /* the browser keeps nothing */ }

    function show() {
        if (chosen) root.dataset.theme = chosen;
        else delete root.dataset.theme;
        const dark = (chosen ?? (system.matches ? "dark" : "light")) === "dark";
        document.querySelector("meta[name=theme-color]").content = dark ? "#191714" : "#faf8f4";
        return dark;
    }

    show();
    system.addEventListener("change", show);
    addEventListener("DOMContentLoaded", () => {
        document.getElementById("theme").addEventListener("click", () => {
            const wanted = show() ? "light" : "dark";
            chosen = (wanted === "dark") === system.matches ? null : wanted;
            show();
            try {
                if (chosen) localStorage.setItem("quern.theme", chosen);
                else localStorage.removeItem("quern.theme");
            } catch { /* until the page is closed */ }
        });
    });
})();
