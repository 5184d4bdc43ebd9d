// Light or dark: as the system says, until one is chosen.

const CHOSEN = "skipstone.theme";

export function startTheme(button) {
  const root = document.documentElement;
  const chosen = localStorage.getItem(CHOSEN);
  if (chosen) root.dataset.theme = chosen;
  button?.addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem(CHOSEN, root.dataset.theme);
  });
}
