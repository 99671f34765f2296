// Light or dark: the system's choice, until the reader makes one. Runs before the first paint.
(() => {
    const root = document.documentElement;
    const system = matchMedia("(prefers-color-scheme: dark)");
    const stored = () => localStorage.getItem("quern.theme");

    function show() {
        if (stored()) root.dataset.theme = stored();
        else delete root.dataset.theme;
        const dark = (stored() ?? (system.matches ? "dark" : "light")) === "dark";
        document.querySelector("meta[name=theme-color]").content = dark ? "#191714" : "#faf8f4";
        return dark;
    }

    show();
    system.addEventListener("change", show);
    addEventListener("DOMContentLoaded", () => {
        document.getElementById("theme").addEventListener("click", () => {
            const wanted = show() ? "light" : "dark";
            if ((wanted === "dark") === system.matches) localStorage.removeItem("quern.theme");
            else localStorage.setItem("quern.theme", wanted);
            show();
        });
    });
})();
